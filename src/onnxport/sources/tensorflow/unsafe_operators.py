"""Operators of a SavedModel that read or write files or call Python, found before anything of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxport.checkpoints.tensorflow_files import UNSAFE_OPERATORS, unsafe_error

# Debugging and printing write where an attribute says.
_WHERE = ("output_stream", "debug_urls")
_HARMLESS = ("stderr", "stdout", "log(info)", "log(warning)", "log(error)", "")


def reject_unsafe_operators(folder: Path, graphs: list[Any]) -> None:
    """Refuse graphs with unsafe operators. `tensorflow_files` searches the bytes for names; here the graphs are parsed.

    Args:
        folder: the SavedModel.
        graphs: its MetaGraphDefs.

    Raises:
        UntrustedCheckpointError: running one would read or write files, call Python or open connections.
    """
    found = sorted({name for graph in graphs for node in _nodes(graph.graph_def) if (name := _unsafe(node))})
    if found:
        raise unsafe_error(folder, found)


def _nodes(graph_def: Any) -> list[Any]:
    return [*graph_def.node, *(node for body in graph_def.library.function for node in body.node_def)]


def _unsafe(node: Any) -> str | None:
    if node.op in UNSAFE_OPERATORS:
        return str(node.op)
    for name in _WHERE:
        if name in node.attr:
            value = node.attr[name]
            places = [value.s, *value.list.s]
            if any(place.decode(errors="replace") not in _HARMLESS for place in places):
                return str(node.op)
    return None
