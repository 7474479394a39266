"""Derive positions from the mask, because a static cache always has the same length.

Some decoders count positions from the length of the past. With a static cache, the number of used slots is read from
the mask, and positions are lowered by the number of unused slots. In such decoders the mask is the same for all rows,
so the first row is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

# Operators between a length and the positions.
_ARITHMETIC = frozenset(("Shape", "Squeeze", "Unsqueeze", "Reshape", "Add", "Sub", "Cast", "Gather", "Identity"))


def derive_positions(model: ir.Model, pasts: Collection[str], size: int) -> bool:
    """Lower all positions, of cached and of new tokens, by the number of masked slots, in place.

    Args:
        model: the graph; it has an input `attention_mask`. Shapes of cache inputs are not folded yet.
        pasts: names of the cache inputs.
        size: number of cache slots.

    Returns:
        False, with the graph unchanged, if no position depends on the length of the past.
    """
    import onnx_ir as ir

    mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
    found = list(_positions(model, pasts))
    if not found:
        return False
    tape = ir.tape.Tape()
    window = tape.op(
        "Slice", [mask, _numbers(model, "from", 0, 0), _numbers(model, "to", 1, size), _numbers(model, "axes", 0, 1)]
    )
    used = tape.op("ReduceSum", [window], attributes={"keepdims": 0})
    unused = tape.op("Sub", [_numbers(model, "size", size, scalar=True), used])
    casts = {ir.DataType.INT64: unused}
    for value in found:
        kind = value.dtype or ir.DataType.INT64
        if kind not in casts:
            casts[kind] = tape.op("Cast", [unused], attributes={"to": kind})
        uses = list(value.uses())
        shifted = tape.op("Sub", [value, casts[kind]])
        for node, index in uses:
            node.replace_input_with(index, shifted)
    for number, new in enumerate(tape.nodes):
        new.name = new.outputs[0].name = f"positions.{number}"
    model.graph.extend(tape.nodes)
    model.graph.sort()
    return True


def _positions(model: ir.Model, pasts: Collection[str]) -> Iterator[ir.Value]:
    """Yield ranges up to a length that includes the past, and ranges to which the past's length is added."""
    lengths: set[ir.Value] = set()
    for node in model.graph:
        given = [value for value in node.inputs if value is not None]
        if node.op_type == "Shape":
            if given[0].name in pasts:
                lengths.add(node.outputs[0])
        elif any(value in lengths for value in given):
            others = [value for value in given if value not in lengths]
            if node.op_type == "Range" or (node.op_type == "Add" and any(map(_is_range, others))):
                yield node.outputs[0]
            elif node.op_type in _ARITHMETIC:
                lengths.add(node.outputs[0])


def _is_range(value: ir.Value) -> bool:
    node = value.producer()
    while (
        node is not None and node.op_type in ("Unsqueeze", "Cast", "Reshape", "Expand") and node.inputs[0] is not None
    ):
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Range"


def _numbers(model: ir.Model, what: str, *numbers: int, scalar: bool = False) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(np.array(numbers[0] if scalar else numbers, np.int64), name=f"positions.{what}")
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )  # fmt: skip
    model.graph.register_initializer(value)
    return value
