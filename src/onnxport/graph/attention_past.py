"""The cache goes into the attention operator instead of being joined before it.

A decoder joins past and new keys (`Concat`) and attends over the result. ONNX's Attention (opset 23)
takes the past as inputs and gives the joined keys and values as outputs, so that onnxruntime copies
the cache once a layer, not twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_SINCE = 23
_TOKENS = (2, -2)  # the axis of (batch, heads, tokens, features)
_MASK, _INPUTS = 3, 4


def attend_over_past(model: ir.Model) -> int:
    """Returns how many Attention nodes were given their past, in place."""
    import onnx_ir as ir

    if (model.opset_imports.get("") or 0) < _SINCE:
        return 0
    done = 0
    for node in [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]:
        joined = [_joined(value, node) for value in node.inputs[1:3]]
        if len(node.outputs) != 1 or any(join is None for join in joined) or len(node.inputs) > _INPUTS:
            continue
        key, value = (join for join in joined if join is not None)
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
        done += 1
    return done


def _joined(value: ir.Value | None, attention: ir.Node) -> ir.Node | None:
    """The node that joins an input of the graph with new tokens to `value`, for this attention and the caller."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    axis = node.attributes.get("axis")
    past = node.inputs[0]
    fits = axis is not None and axis.as_int() in _TOKENS and past is not None and past.is_graph_input()
    alone = value.is_graph_output() and all(user is attention for user in value.consumers())
    return node if fits and alone else None
