"""Choose the ranges in which dynamic int8 quantizes weights: as wide as 16-bit sums of two products allow.

With the full range, where the largest weight of a column becomes 127, such sums can saturate (`saturation`). With half
of the range (ONNX Runtime's `reduce_range`) they never do, but the error of every weight doubles. Two large weights of
one sign are seldom neighbours, so a range per column can be close to the full one:

    scale[n] = max over pairs of rows and both signs of (sum of the weights of one sign in the pair) / 127

A pair then adds up to at most 127 before rounding and 127 + 2 * 0.5 = 128 after, which fits in 16 bits. A single weight
is at most 127.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from onnxport.graph.quantization.saturation import added_rows, pair_sums

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class WeightRanges:
    """Options for ONNX Runtime's quantizer.

    Attributes:
        overrides: weight -> for every output the range that becomes -127 to 127, for its option `TensorQuantOverrides`.
            Weights that are not in it must be quantized in half of the range.
        table_products: a weight is both the table of a Gather and the matrix of a product. The quantizer would quantize
            it
            once, for the first of them, and in the full range if that is the Gather.
        excluded_nodes: nodes that must stay float32: the quantizer's result for products with a vector, or with several
            matrices at once, does not run.
    """

    overrides: dict[str, list[dict[str, Any]]]
    table_products: bool
    excluded_nodes: tuple[str, ...] = ()


def find_weight_ranges(
    file: Path, factors: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({}), *, convolutions: bool = False
) -> WeightRanges:
    """Return the ranges of all weights of MatMul and Gemm; weights are read one at a time.

    Args:
        file: a float32 graph.
        factors: of activations; the graph is smoothed before (`smoothing.smooth`).
        convolutions: also those of convolutions.
    """
    from onnxport.graph.quantization.smoothing import smooth
    from onnxport.graph.quantization.weight_only import load_graph

    model = load_graph(file)
    smooth(model, factors)
    overrides = {}
    table_products = False
    excluded_nodes: set[str] = set()
    for name, value in model.graph.initializers.items():
        uses = {_use(node, index) for node, index in value.uses() if node.graph is model.graph}
        table_products = table_products or {"table", "columns"} <= uses
        tensor = value.const_value
        if tensor is None or tensor.dtype.name != "FLOAT":
            continue
        if uses == {"filters"} and convolutions:
            filters = added_rows(cast("ir.TensorProtocol", tensor).numpy())
            overrides[name] = _overrides(pair_sums(filters), axis=0)
        elif len(tensor.shape) != 2:
            excluded_nodes.update(node.name or "" for node, index in value.uses() if _use(node, index) == "columns")
        # The quantizer identifies a weight by its name, so a weight that is read in two ways gets no own range.
        elif uses & {"columns", "rows"} and len(uses - {"other"}) == 1:
            overrides[name] = _ranges(cast("ir.TensorProtocol", tensor).numpy(), by_row="rows" in uses)
    return WeightRanges(overrides, table_products, tuple(sorted(excluded_nodes - {""})))


def _use(node: ir.Node, index: int) -> str:
    """Return how a node reads it: as a table, filters, a matrix with an output per column or row, or otherwise."""
    match node.op_type:
        case "Gather" if index == 0:
            return "table"
        case "MatMul" if index == 1:
            return "columns"
        case "Gemm" if index == 1:
            return "rows" if node.attributes.get_int("transB", 0) else "columns"
        case "Conv" if index == 1:
            return "filters"
    return "other"


def _ranges(weights: np.ndarray[Any, Any], *, by_row: bool) -> list[dict[str, Any]]:
    return _overrides(pair_sums(weights.T if by_row else weights), axis=0 if by_row else 1)


def _overrides(largest: np.ndarray[Any, Any], axis: int) -> list[dict[str, Any]]:
    limits = largest.astype(np.float32)
    return [{"axis": axis, "reduce_range": False, "rmin": -limit, "rmax": limit} for limit in limits]
