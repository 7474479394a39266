"""For each kind of fusion: how many places of a graph were fused, and why each of the others was not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_FUSED_NORMS = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
_GELUS = ("Gelu",)
_FUSED_GELUS = ("BiasGelu", "FastGelu")


@dataclass(frozen=True)
class FusionKind:
    """One kind of fusion in one graph.

    Attributes:
        title: what is fused.
        places: number of places where it was.
        left: name of each operator where it was not -> the first condition that failed.
    """

    title: str
    places: int
    left: Mapping[str, str] = field(default_factory=dict)


def explain_fusions(source: Path, folder: Path) -> tuple[FusionKind, ...]:
    """Fuse a graph, and say what was fused and why the rest was not.

    Args:
        source: a graph file.
        folder: the fused graph is written to a temporary folder in it.

    Raises:
        MemoryLimitError: the weights do not fit in memory.
    """
    from onnxport.graph.optimize import optimize_graph
    from onnxport.graph.quantization.weight_only import load_graph

    with tempfile.TemporaryDirectory(dir=folder, prefix=".explaining-") as name:
        target = Path(name) / source.name
        attention = optimize_graph(source, target)
        graph = load_graph(target).graph
        return (
            FusionKind("attention", attention.layers, attention.left),
            _kind("sum and norm", graph, _FUSED_NORMS, _NORMS, _norm_reason),
            _kind("bias and Gelu", graph, _FUSED_GELUS, _GELUS, _gelu_reason),
        )


def _kind(
    title: str, graph: ir.Graph, fused: tuple[str, ...], left: tuple[str, ...], reason: Callable[[ir.Node], str]
) -> FusionKind:  # fmt: skip
    return FusionKind(
        title, sum(node.op_type in fused for node in graph),
        {str(node.name or node.outputs[0].name): reason(node) for node in graph if node.op_type in left},
    )  # fmt: skip


def _norm_reason(node: ir.Node) -> str:
    data = node.inputs[0]
    add = data.producer() if data is not None else None
    if data is None or add is None or add.op_type != "Add":
        return f"its input is no sum: it comes from {_origin(data)}"
    if any(given is not None and given.is_initializer() for given in add.inputs):
        return "one side of the sum is a constant"
    others = [user for user in data.consumers() if user is not node]
    if others or data.is_graph_output():
        names = sorted({user.op_type for user in others}) or ["an output"]
        return f"the sum is read elsewhere too, by {', '.join(names)}"
    shapes = [str(given.shape) for given in add.inputs if given is not None]
    if len(set(shapes)) > 1:
        return f"the sides of the sum have different shapes: {' and '.join(shapes)}"
    return "ONNX Runtime did not fuse it"


def _gelu_reason(node: ir.Node) -> str:
    data = node.inputs[0]
    add = data.producer() if data is not None else None
    if data is None or add is None or add.op_type != "Add":
        return f"its input is no sum with a bias: it comes from {_origin(data)}"
    if not any(given is not None and given.is_initializer() and len(given.shape or ()) == 1 for given in add.inputs):
        return "neither side of the sum is a bias, a constant with one axis"
    if len(data.uses()) > 1 or data.is_graph_output():
        return "the sum is read elsewhere too"
    return "ONNX Runtime did not fuse it"


def _origin(value: ir.Value | None) -> str:
    node = value.producer() if value is not None else None
    return node.op_type if node is not None else "an input or a constant"
