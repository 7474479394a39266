"""Add an attention mask to a decoder without one, so that the unused slots of a static cache can be masked.

The decoder of an encoder-decoder attends to all past tokens, so its graph has no `attention_mask`. If the past is an
input of the Attention operator, the mask can be added there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

_MASK, _PAST = 3, 4  # inputs of Attention
# Added to a score, it hides a slot. Added to the lowest float32 of another mask, the sum is still finite.
_HIDDEN = -1e30


def add_cache_mask(model: ir.Model, pasts: Collection[str], total: int) -> bool:
    """Add an input `attention_mask`, int64 (rows, total), 0 for hidden slots, in place.

    Args:
        model: the graph of a decoder.
        pasts: names of the cache inputs.
        total: number of cache slots and new tokens.

    Returns:
        False, with the graph unchanged, if the past is read by other operators.
    """
    import onnx_ir as ir

    values = [value for value in model.graph.inputs if value.name in pasts]
    users = [(node, index) for value in values for node, index in value.uses() if node.op_type != "Shape"]
    attentions = list(dict.fromkeys(node for node, _ in users))
    if not attentions or any(node.op_type != "Attention" or index < _PAST for node, index in users):
        return False
    kinds = {node.inputs[_MASK].dtype for node in attentions if node.inputs[_MASK] is not None}
    if kinds - {ir.DataType.FLOAT}:
        return False
    rows = values[0].shape[0] if values[0].shape is not None else None
    mask = ir.Value(
        name="attention_mask", shape=ir.Shape([rows, total]), type=ir.TensorType(ir.DataType.INT64)
    )  # fmt: skip
    model.graph.inputs.append(mask)
    tape = ir.tape.Tape()
    hidden = tape.op("Equal", [mask, _constant(model, "none", np.array(0, np.int64))])
    numbers = [_constant(model, name, np.array(n, np.float32)) for name, n in (("low", _HIDDEN), ("zero", 0))]
    scores = tape.op("Where", [hidden, *numbers])
    bias = tape.op("Unsqueeze", [scores, _constant(model, "axes", np.array([1, 2], np.int64))])
    sums: dict[ir.Value | None, ir.Value] = {}
    for node in attentions:
        old_mask = node.inputs[_MASK]
        if old_mask not in sums:
            # Attention requires a mask row for every token.
            zero = _constant(model, "rows", np.zeros((1, 1, _query_tokens(node), 1), np.float32))
            sums[old_mask] = tape.op("Add", [bias, zero if old_mask is None else old_mask])
    for count, new in enumerate(tape.nodes):
        new.name = new.outputs[0].name = f"attention_mask.{count}"
    for node in attentions:
        node.replace_input_with(_MASK, sums[node.inputs[_MASK]])
    model.graph.extend(tape.nodes)
    model.graph.sort()
    return True


def _query_tokens(node: ir.Node) -> int:
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
