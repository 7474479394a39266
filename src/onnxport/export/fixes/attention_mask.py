"""Expand attention masks with a single query row to one row per query.

Upstream: ONNX's Attention (opset 23) broadcasts the mask, but ONNX Runtime's CPU kernel does not broadcast the query
axis: "inconsistent q_sequence_length (between attn_mask and Q)" (core/providers/cpu/llm/attention_helper.h, ONNX
Runtime 1.32). Models that build their own (batch, 1, 1, keys) mask are affected, for example layoutlm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.export.fixes.expand import expand_before

if TYPE_CHECKING:
    import onnx_ir as ir

_MASK = 3


def expand_attention_masks(model: ir.Model) -> int:
    """Expand masks, in place.

    Args:
        model: a captured graph.

    Returns:
        The number of Attention nodes with an expanded mask.
    """
    made: dict[tuple[object, ...], ir.Value] = {}
    count = 0
    for node in list(model.graph):
        if node.op_type != "Attention" or node.domain not in ("", "ai.onnx") or len(node.inputs) <= _MASK:
            continue
        query, mask = node.inputs[0], node.inputs[_MASK]
        if query is None or mask is None or query.shape is None or mask.shape is None or len(mask.shape) < 2:
            continue
        axis = len(query.shape) - 2  # (batch, heads, queries, size) or (batch, queries, heads * size)
        if mask.shape[-2] != 1 or query.shape[axis] == 1:
            continue
        key = (mask, str(query.shape[axis]))
        if key not in made:
            before, after = [1] * (len(mask.shape) - 2), [1]
            made[key] = expand_before(model, node, mask, query, axis, before, after)
        node.replace_input_with(_MASK, made[key])
        count += 1
    return count
