"""Operators of a SavedModel that reach out of it, found before anything of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxport.checkpoints.tensorflow_files import REACHING
from onnxport.errors import UntrustedCheckpointError

# Debugging and printing write where an attribute says.
_WHERE = ("output_stream", "debug_urls")
_HARMLESS = ("stderr", "stdout", "log(info)", "log(warning)", "log(error)", "")


def reject_unsafe_operators(folder: Path, graphs: list[Any]) -> None:
    """`tensorflow_files` looks for names in the bytes; here the graphs are parsed, whatever form they have.

    Args:
        folder: the SavedModel.
        graphs: its MetaGraphDefs.

    Raises:
        UntrustedCheckpointError: running one would read or write files, call Python or open connections.
    """
    found = sorted({name for graph in graphs for node in _nodes(graph.graph_def) if (name := _reaching(node))})
    if found:
        raise UntrustedCheckpointError(
            f"Running {folder} would reach out of the model ({', '.join(found)}: files, processes or Python). "
            "Nothing was run.",
            hint="If you trust where it comes from, add `--trust-remote-code`.",
        )


def _nodes(graph_def: Any) -> list[Any]:
    return [*graph_def.node, *(node for body in graph_def.library.function for node in body.node_def)]


def _reaching(node: Any) -> str | None:
    if node.op in REACHING:
        return str(node.op)
    for name in _WHERE:
        if name in node.attr:
            value = node.attr[name]
            places = [value.s, *value.list.s]
            if any(place.decode(errors="replace") not in _HARMLESS for place in places):
                return str(node.op)
    return None
