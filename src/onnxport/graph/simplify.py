"""Constant folding and common rewrites, without reading weights.

What torch.onnx does itself when it is asked to optimize (`onnxscript.optimizer`), but after the
weights are attached: on placeholders, which are all alike, it would merge what is different.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

# Elements; onnxscript's own limit for operators of any kind. It folds transposes of any size, which
# `weight_layout` does while writing.
_FOLDED_UP_TO = 8192


def simplify(model: onnx_ir.Model) -> None:
    """Simplify in place."""
    import onnxscript.optimizer
    from onnxscript.rewriter import onnx_fusions

    onnxscript.optimizer.optimize_ir(model, should_fold=_should_fold)
    onnx_fusions.fuse(model)


def _should_fold(node: onnx_ir.Node) -> bool | None:
    """False for an operator on a large weight; None leaves it to the library's rules."""
    sizes = (value.const_value.size for value in node.inputs if value is not None and value.const_value is not None)
    return False if any(size > _FOLDED_UP_TO for size in sizes) else None


def share_common_nodes(model: onnx_ir.Model) -> None:
    """Nodes that compute the same are one, in place: fusions and repairs leave a copy in every layer."""
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
