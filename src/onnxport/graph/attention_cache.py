"""Pass the KV cache to the Attention operator instead of concatenating it before.

An exported decoder concatenates past and new keys (`Concat`) and attends over the result. ONNX's Attention (opset 23)
takes the past keys and values as inputs and returns the concatenated ones, so ONNX Runtime copies the cache once per
layer instead of twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_SINCE = 23
_TOKENS = (2, -2)  # the axis of (batch, heads, tokens, features)
_MASK, _INPUTS = 3, 4


def move_cache_into_attention(model: ir.Model) -> int:
    """Replace Concat and Attention by one Attention with past inputs, in place.

    Args:
        model: the graph of a decoder.

    Returns:
        The number of Attention nodes that were changed; 0 below opset 23.
    """
    import onnx_ir as ir

    if (model.opset_imports.get("") or 0) < _SINCE:
        return 0
    changed = 0
    for node in [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]:
        concats = [_cache_concat(value, node) for value in node.inputs[1:3]]
        if len(node.outputs) != 1 or any(concat is None for concat in concats) or len(node.inputs) > _INPUTS:
            continue
        key, value = (concat for concat in concats if concat is not None)
        mask = node.inputs[_MASK] if len(node.inputs) > _MASK else None
        replaced = [node.outputs[0], key.outputs[0], value.outputs[0]]
        attention = ir.node(
            "Attention",
            [node.inputs[0], key.inputs[1], value.inputs[1], mask, key.inputs[0], value.inputs[0]],
            node.attributes.copy(),
            num_outputs=3,
            name=node.name,
        )
        model.graph.insert_before(node, attention)
        for old, new in zip(replaced, attention.outputs, strict=True):
            new.shape, new.type = old.shape, old.type
            name, old.name = old.name, None
            new.name = name
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        model.graph.remove([node, key, value], safe=True)
        changed += 1
    return changed


def _cache_concat(value: ir.Value | None, attention: ir.Node) -> ir.Node | None:
    """Return the Concat of past and new tokens that makes `value`, if only `attention` and the caller read it."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    axis = node.attributes.get("axis")
    past = node.inputs[0]
    fits = axis is not None and axis.as_int() in _TOKENS and past is not None and past.is_graph_input()
    exclusive = value.is_graph_output() and all(user is attention for user in value.consumers())
    return node if fits and exclusive else None
