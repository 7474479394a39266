"""The ranges in which dynamic int8 rounds weights: as wide as sums of two products in 16 bits allow.

Full range, 127 at the largest weight of a column, lets such sums saturate (`saturation.py`). Half of it, which
onnxruntime's `reduce_range` gives, never does, and doubles the error of every weight. Two large weights of one sign are
seldom neighbours, so a range for each column can be close to the full one:

    scale[n] = max over pairs of rows and both signs of (the weights of one sign in the pair, added up) / 127

A pair then adds up to at most 127 before rounding and 127 + 2 * 0.5 = 128 after, which is what the sums hold; a single
weight is at most 127.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from onnxport.graph.quantization.saturation import pair_sums

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Ranges:
    """What onnxruntime's quantizer is told about weights.

    Attributes:
        overrides: weight -> for every output the range that is rounded to -127 to 127, as its option
            `TensorQuantOverrides` takes it. What is not in it must be rounded in half the range.
        table_products: a weight is both the table of a Gather and the matrix of a product. The quantizer would
            round it once, for the first of them, and in the full range if that is the Gather.
        left_out: nodes that must stay float32: what the quantizer makes of products with a vector or with several
            matrices at once does not run.
    """

    overrides: dict[str, list[dict[str, Any]]]
    table_products: bool
    left_out: tuple[str, ...] = ()


def find_ranges(file: Path) -> Ranges:
    """The ranges of all weights of MatMul and Gemm in a float32 graph file; weights are read one at a time."""
    from onnxport.graph.quantization.weight_only import load_graph

    model = load_graph(file)
    overrides = {}
    table_products = False
    left_out: set[str] = set()
    for name, value in model.graph.initializers.items():
        uses = {_use(node, place) for node, place in value.uses() if node.graph is model.graph}
        table_products = table_products or {"table", "columns"} <= uses
        tensor = value.const_value
        if tensor is None or tensor.dtype.name != "FLOAT":
            continue
        if len(tensor.shape) != 2:
            left_out.update(node.name or "" for node, place in value.uses() if _use(node, place) == "columns")
            continue
        # The quantizer knows a weight by its name: one that is read in two ways has no range of its own.
        if uses & {"columns", "rows"} and len(uses - {"else"}) == 1:
            overrides[name] = _ranges(cast("ir.TensorProtocol", tensor).numpy(), by_row="rows" in uses)
    return Ranges(overrides, table_products, tuple(sorted(left_out - {""})))


def _use(node: ir.Node, place: int) -> str:
    """How a node reads a weight: as a table, as a matrix with an output in each column or row, or else."""
    match node.op_type:
        case "Gather" if place == 0:
            return "table"
        case "MatMul" if place == 1:
            return "columns"
        case "Gemm" if place == 1:
            return "rows" if node.attributes.get_int("transB", 0) else "columns"
    return "else"


def _ranges(weights: np.ndarray[Any, Any], *, by_row: bool) -> list[dict[str, Any]]:
    largest = pair_sums(weights.T if by_row else weights).astype(np.float32)
    return [{"axis": 0 if by_row else 1, "reduce_range": False, "rmin": -most, "rmax": most} for most in largest]
