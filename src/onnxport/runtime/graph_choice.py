"""Which of a folder's graphs work together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxport.errors import FolderError, UsageError

_MODEL = "model"


def choose_graphs(folder: Path, known: Sequence[str], graphs: Sequence[str], component: str) -> list[str]:
    """A graph for each of `graphs`, of the kind that `component` names.

    Args:
        known: names of all graphs of the folder.
        graphs: names of those that work together, as they were converted.
        component: "model" for these; "model_int8", or the full name of one, for the graphs whose names end like
            that. A graph that the folder does not have with that ending is the one that was converted.

    Raises:
        UsageError: none has that ending.
        FolderError: the folder lacks a graph.
    """
    start = next((name for name in (*graphs, _MODEL) if component == name or component.startswith(f"{name}_")), None)
    ending = component.removeprefix(start) if start is not None else ""
    names = [name + ending if name + ending in known else name for name in graphs]
    if start is None or (ending and not any(name.endswith(ending) for name in names)):
        raise UsageError(f"{folder} has no graphs {component!r}.", hint=f"It has {', '.join(known)}.")
    missing = [name for name in names if name not in known]
    if missing:
        raise FolderError(f"{folder} has no graph {missing[0]}.", hint=f"It has {', '.join(known)}.")
    return names
