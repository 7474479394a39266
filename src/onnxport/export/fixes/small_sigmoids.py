"""Compute sigmoids of which some are chosen and divided by their sum so that small ones keep their digits.

Upstream: ONNX Runtime 1.32's Sigmoid on the CPU is exact to a few units of 2^-24 of 1, not of its result: sigmoid(-8)
is off by 2e-4 of itself, sigmoid(-16) by half. A mixture of experts that weights the chosen scores by their sum
(solar_open, deepseek_v3, glm4_moe) amplifies that where all scores are small. Exp is exact to the last place there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_CHOOSE = ("TopK", "GatherElements", "GatherND")
_PASS_ON = ("Reshape", "Cast", "Unsqueeze", "Squeeze", "Identity")


def precise_sigmoids(model: ir.Model) -> int:
    """Replace Sigmoid by 1 / (1 + exp(-x)) where some of its results are chosen, in place.

    Args:
        model: a captured graph.

    Returns:
        The number of replaced nodes.
    """
    import numpy as np
    import onnx_ir as ir

    count = 0
    for node in list(model.graph):
        if node.op_type != "Sigmoid" or node.domain not in ("", "ai.onnx") or not _is_chosen_from(node.outputs[0]):
            continue
        given, result = node.inputs[0], node.outputs[0]
        if given is None or given.dtype != ir.DataType.FLOAT:
            continue
        one = ir.node("Constant", [], attributes={"value": ir.tensor(np.array(1, np.float32))})
        minus = ir.node("Neg", [given])
        power = ir.node("Exp", [minus.outputs[0]])
        total = ir.node("Add", [power.outputs[0], one.outputs[0]])
        share = ir.node("Div", [one.outputs[0], total.outputs[0]])
        made = (one, minus, power, total, share)
        for value in (made_node.outputs[0] for made_node in made):
            value.dtype, value.shape = given.dtype, result.shape if value is not one.outputs[0] else ir.Shape(())
        model.graph.insert_before(node, made)
        result.replace_all_uses_with(share.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        count += 1
    return count


def _is_chosen_from(value: ir.Value) -> bool:
    for use in value.uses():
        if use.node.op_type in _CHOOSE and use.idx == 0:
            return True
        if use.node.op_type in _PASS_ON and use.idx == 0 and _is_chosen_from(use.node.outputs[0]):
            return True
    return False
