"""Expand rotary tables that all rows of a batch share to one table per row.

Upstream: without `position_ids`, ONNX's RotaryEmbedding (opset 23) requires tables of shape (batch, sequence, size /
2), and ONNX Runtime 1.32 checks it: "Inputs 'cos_cache' and 'sin_cache' are expected to have the same shape as input
'x', got 1 and ...". torch.onnx also fuses the operator from models whose tables are (1, sequence, size / 2) and
broadcast. modernbert is affected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.export.fixes.expand import expand_before

if TYPE_CHECKING:
    import onnx_ir as ir

_COS, _SIN, _POSITIONS = 1, 2, 3


def expand_rotary_caches(model: ir.Model) -> int:
    """Expand tables, in place.

    Args:
        model: a captured graph.

    Returns:
        The number of expanded inputs of RotaryEmbedding nodes.
    """
    made: dict[tuple[object, ...], ir.Value] = {}
    count = 0
    for node in list(model.graph):
        if node.op_type != "RotaryEmbedding" or node.domain not in ("", "ai.onnx"):
            continue
        if len(node.inputs) > _POSITIONS and node.inputs[_POSITIONS] is not None:
            continue  # tables are indexed by position
        rows = node.inputs[0]
        if rows is None:
            continue
        for index in (_COS, _SIN):
            table = node.inputs[index]
            if table is None or (table.shape is not None and rows.shape and table.shape[0] == rows.shape[0]):
                continue
            key = (table, str(rows.shape[0]) if rows.shape else id(rows))
            if key not in made:
                made[key] = expand_before(model, node, table, rows, 0, [], [1, 1])
            node.replace_input_with(index, made[key])
            count += 1
    return count
