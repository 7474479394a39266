"""Which graphs of a folder run together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxport.errors import FolderError, UsageError

_MODEL = "model"


def choose_graphs(folder: Path, known: Sequence[str], graphs: Sequence[str], component: str) -> list[str]:
    """The variant of each of `graphs` that `component` asks for.

    Args:
        known: names of all graphs of the folder.
        graphs: names of the graphs that run together, as converted.
        component: "model" for these. "model_int8", or the full name of one variant, for the variants with that
            suffix; a graph without such a variant is used as converted.

    Raises:
        UsageError: no graph has such a variant.
        FolderError: the folder lacks a graph.
    """
    prefix = next((name for name in (*graphs, _MODEL) if component == name or component.startswith(f"{name}_")), None)
    suffix = component.removeprefix(prefix) if prefix is not None else ""
    names = [name + suffix if name + suffix in known else name for name in graphs]
    if prefix is None or (suffix and not any(name.endswith(suffix) for name in names)):
        raise UsageError(f"{folder} has no graphs {component!r}.", hint=f"It has {', '.join(known)}.")
    missing = [name for name in names if name not in known]
    if missing:
        raise FolderError(f"{folder} has no graph {missing[0]}.", hint=f"It has {', '.join(known)}.")
    return names
