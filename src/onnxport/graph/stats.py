"""Count operators and parameters of a graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir


@dataclass(frozen=True)
class GraphStats:
    """Counts of a graph.

    Attributes:
        operators: number of nodes by operator; operators of other domains as `domain::Op`.
        parameters: number of weight elements.
        opset: opset of the default domain.
    """

    operators: dict[str, int]
    parameters: int
    opset: int


def graph_stats(model: onnx_ir.Model) -> GraphStats:
    """Count over the graph and its subgraphs. Integer constants such as shapes are no parameters."""
    operators = Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        for node in model.graph.all_nodes()
    )
    parameters = sum(
        tensor.size
        for graph in model.graphs()
        for value in graph.initializers.values()
        if (tensor := value.const_value) is not None
        and tensor.dtype.name != "STRING"
        and (tensor.dtype.is_floating_point() or tensor.dtype.bitwidth <= 8)
    )
    return GraphStats(dict(sorted(operators.items())), int(parameters), int(model.opset_imports.get("", 0)))


def file_operators(path: Path) -> dict[str, int]:
    """Operators of a graph file, by name; its weights are not read."""
    import onnx_ir as ir

    return graph_stats(ir.load(path)).operators
