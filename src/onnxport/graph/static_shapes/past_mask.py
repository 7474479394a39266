"""A mask for a decoder that has none: the unused places of a cache of a fixed size must be hidden.

A decoder of an encoder-decoder sees all of its past, so its graph has no `attention_mask`. Where the past goes into
the Attention operator, the mask can be added there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

_MASK, _PAST = 3, 4  # inputs of Attention
# Added to a score it hides a place; with the lowest float32, which other masks add, it is still a number.
_HIDDEN = -1e30


def hide_unused(model: ir.Model, pasts: Collection[str], whole: int) -> bool:
    """Give the graph an input `attention_mask` (rows, whole), int64, 0 where a place is hidden; in place.

    Args:
        pasts: inputs with the past.
        whole: places of past and new tokens together.

    Returns:
        False, and nothing was done, where the past goes elsewhere.
    """
    import onnx_ir as ir

    values = [value for value in model.graph.inputs if value.name in pasts]
    users = [(node, place) for value in values for node, place in value.uses() if node.op_type != "Shape"]
    attentions = list(dict.fromkeys(node for node, _ in users))
    if not attentions or any(node.op_type != "Attention" or place < _PAST for node, place in users):
        return False
    kinds = {node.inputs[_MASK].dtype for node in attentions if node.inputs[_MASK] is not None}
    if kinds - {ir.DataType.FLOAT}:
        return False
    rows = values[0].shape[0] if values[0].shape is not None else None
    mask = ir.Value(
        name="attention_mask", shape=ir.Shape([rows, whole]), type=ir.TensorType(ir.DataType.INT64)
    )  # fmt: skip
    model.graph.inputs.append(mask)
    tape = ir.tape.Tape()
    hidden = tape.op("Equal", [mask, _constant(model, "none", np.array(0, np.int64))])
    numbers = [_constant(model, name, np.array(n, np.float32)) for name, n in (("low", _HIDDEN), ("zero", 0))]
    scores = tape.op("Where", [hidden, *numbers])
    bias = tape.op("Unsqueeze", [scores, _constant(model, "axes", np.array([1, 2], np.int64))])
    sums: dict[ir.Value | None, ir.Value] = {}
    for node in attentions:
        before = node.inputs[_MASK]
        if before not in sums:
            # Attention wants a row of the mask for every token.
            zero = _constant(model, "rows", np.zeros((1, 1, _tokens(node), 1), np.float32))
            sums[before] = tape.op("Add", [bias, zero if before is None else before])
    for number, made in enumerate(tape.nodes):
        made.name = made.outputs[0].name = f"attention_mask.{number}"
    for node in attentions:
        node.replace_input_with(_MASK, sums[node.inputs[_MASK]])
    model.graph.extend(tape.nodes)
    model.graph.sort()
    return True


def _tokens(node: ir.Node) -> int:
    query = node.inputs[0]
    size = query.shape[-2] if query is not None and query.shape is not None else 1
    return size if isinstance(size, int) else 1


def _constant(model: ir.Model, what: str, array: np.ndarray) -> ir.Value:
    import onnx_ir as ir

    name = f"attention_mask.{what}"
    if name not in model.graph.initializers:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )  # fmt: skip
        model.graph.register_initializer(value)
    return model.graph.initializers[name]
