"""Where the error between two graphs grows: the values that both have, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxport.formats.graph_file import GraphFile
from onnxport.runtime.graph_values import graph_values
from onnxport.verification.comparison.result import LayerComparison
from onnxport.verification.localisation.matching import is_telling, relative_error
from onnxport.verification.tolerance import LARGEST

Arrays = dict[str, np.ndarray]


def compare_layers(a: GraphFile, b: GraphFile, inputs: Mapping[str, np.ndarray]) -> list[LayerComparison]:
    """The error of every float value that both graphs give under the same name and in the same shape.

    Args:
        inputs: for both graphs.

    Raises:
        FolderError: ONNX Runtime cannot run one of them.
    """
    given = {name for node in b.nodes for name in node.outputs}
    shared = [name for node in a.nodes for name in node.outputs if name and name in given]
    one, other = _read(a.path, inputs, shared), _read(b.path, inputs, shared)
    labels = layer_names(a)
    errors: dict[str, float] = {}
    found = []
    for node in a.nodes:
        before = max((errors[name] for name in node.reads if name in errors), default=0.0)
        for name in node.outputs:
            value, changed = one.get(name), other.get(name)
            if value is None or changed is None or value.shape != changed.shape or value.dtype.kind != "f":
                continue
            if not is_telling(value):
                continue
            errors[name] = error = relative_error(changed, value)
            jump = max(error - before, 0.0)
            found.append(
                LayerComparison(
                    name, node.operator, labels.get(name, ""), tuple(value.shape), error, jump, cosine(value, changed)
                )
            )
    return found


def _read(file: Path, inputs: Mapping[str, np.ndarray], names: list[str]) -> Arrays:
    return {name: value for group in graph_values(file, inputs, names) for name, value in group.items()}


def layer_names(graph: GraphFile) -> dict[str, str]:
    """Value or weight -> path of the module that it belongs to, from the names of the weights that its node reads.

    The product of a linear layer is named after the bias that is added to it next.
    """
    own: dict[str, str] = {}
    for node in graph.nodes:
        paths = [name.rpartition(".")[0] for name in node.inputs if name in graph.weights and "." in name]
        for name in node.outputs:
            if paths:
                own[name] = paths[0]
        for name in node.inputs if paths else ():
            if node.operator == "Add":
                own.setdefault(name, paths[0])
    for node in graph.nodes:  # what follows without weights of its own belongs to the same layer
        before = _common([own[name] for name in node.inputs if name in own])
        for name in node.outputs if before else ():
            own.setdefault(name, before)
    for node in graph.nodes:
        for name in node.inputs:
            if name in graph.weights and node.outputs[0] in own:
                own.setdefault(name, own[node.outputs[0]])
    return own


def _common(paths: list[str]) -> str:
    """The module that holds all of `paths`."""
    parts = [path.split(".") for path in paths]
    shared = 0
    for at in zip(*parts, strict=False):
        if len(set(at)) > 1:
            break
        shared += 1
    return ".".join(parts[0][:shared]) if parts else ""


def cosine(one: np.ndarray, other: np.ndarray) -> float | None:
    """Of two arrays as vectors; places where one is no number or stands for "masked" are left out."""
    first, second = one.reshape(-1).astype(np.float64), other.reshape(-1).astype(np.float64)
    known = np.isfinite(first) & np.isfinite(second) & (np.abs(first) < LARGEST) & (np.abs(second) < LARGEST)
    first, second = first[known], second[known]
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / lengths if lengths else None
