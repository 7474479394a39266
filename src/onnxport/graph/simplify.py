"""Fold constants and apply common rewrites without reading weights.

torch.onnx can do this itself (`onnxscript.optimizer`), but it would do so while all weights are still placeholders.
Placeholders of one shape are equal, so it would merge different weights. onnxport therefore does it after the weights
are attached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir

    from onnxport.graph.weight_history import WeightHistory

# rules that emit an operator of this opset, whatever opset the graph has.
_SINCE = {"SlicesSplit": 18}
# Elements: onnxscript's own limit for folding. It has no limit for transposes; large ones are folded by
# `weight_layout` while they are written.
_FOLDED_UP_TO = 8192


def simplify(model: onnx_ir.Model, *, weights_stay: bool = False, history: WeightHistory | None = None) -> None:
    """Simplify a graph in place.

    Args:
        model: a graph with weights attached.
        weights_stay: do not fold operators on weights that are in files. For graphs that share the weight files of
            another graph.
        history: receives the nodes that may be computed.
    """
    import onnxscript.optimizer
    from onnxscript.rewriter import onnx_fusions

    decide = _should_fold_rest if weights_stay else _should_fold

    def should_fold(node: onnx_ir.Node) -> bool | None:
        decision = decide(node)
        if history is not None and decision is not False:
            history.consider(node)
        return decision

    with rules_by_operator(model.opset_imports.get("", 0)), exact_constants():
        onnxscript.optimizer.optimize_ir(model, should_fold=should_fold)
        onnx_fusions.fuse(model)


class _ByOperator:
    """A rule's matcher that is called only for nodes with the operator that its pattern ends in.

    Upstream (onnxscript 0.7): each rule is tried on each node, and a rule with two outputs (`SlicesSplit`) first lists
    the whole graph. The time grows with the square of the number of nodes.
    """

    def __init__(self, matcher: Any, allowed: bool) -> None:
        self.matcher, self.allowed = matcher, allowed
        first = matcher.pattern.output_nodes[0].op_identifier()
        self.operator = None if first is None else first[:2]  # None: any operator

    def match(self, model: Any, graph_or_function: Any, node: onnx_ir.Node, **settings: Any) -> Any:
        if not self.allowed:
            return None
        if self.operator is not None and (node.domain, node.op_type) != self.operator:
            return None  # rules treat it like a failed match
        return self.matcher.match(model, graph_or_function, node, **settings)


@contextmanager
def rules_by_operator(opset: int) -> Iterator[None]:
    """Speed up the optimizer's rules: each is tried only on nodes of its operator. Results do not change.

    Args:
        opset: opset of the graph; rules that emit newer operators are skipped.
    """
    from onnxscript import rewriter

    rules = getattr(rewriter, "_DEFAULT_REWRITE_RULES", ())  # a version without them is only slower
    own = [(rule, rule._matcher) for rule in rules if hasattr(rule, "_matcher")]
    for rule, matcher in own:
        rule._matcher = _ByOperator(matcher, opset >= _SINCE.get(rule.name, 0))
    try:
        yield
    finally:
        for rule, matcher in own:
            rule._matcher = matcher


@contextmanager
def exact_constants() -> Iterator[None]:
    """Let rules about whole numbers match exactly these numbers.

    Upstream (onnxscript 0.7): a constant of a pattern matches values within 1e-8, or within a relative 1e-5. So `x +
    1e-10` counts as `x + 0` and becomes `x`. That removes the epsilon that keeps a logarithm finite. Random inputs do
    not show the error; silence in audio does.
    """
    from onnxscript.rewriter import _matcher

    matcher = _matcher.SimplePatternMatcher
    original = matcher._match_constant

    def match(self: Any, pattern: Any, value: onnx_ir.Value) -> bool:
        known = pattern.value
        whole = isinstance(known, list) or float(known).is_integer()
        before = pattern._rel_tol, pattern._abs_tol
        pattern._abs_tol = 0.0
        if whole:
            pattern._rel_tol = 0.0
        try:
            return bool(original(self, pattern, value))
        finally:
            pattern._rel_tol, pattern._abs_tol = before

    matcher._match_constant = match
    try:
        yield
    finally:
        matcher._match_constant = original


def _should_fold(node: onnx_ir.Node) -> bool | None:
    """Return False for an operator on a large weight; None leaves the decision to onnxscript."""
    sizes = (value.const_value.size for value in node.inputs if value is not None and value.const_value is not None)
    return False if any(size > _FOLDED_UP_TO for size in sizes) else None


def _should_fold_rest(node: onnx_ir.Node) -> bool | None:
    """Like `_should_fold`, and False for an operator on a weight in a file."""
    import onnx_ir as ir

    if any(value is not None and isinstance(value.const_value, ir.ExternalTensor) for value in node.inputs):
        return False
    return _should_fold(node)


def share_common_nodes(model: onnx_ir.Model) -> None:
    """Merge nodes that compute the same value, in place. Fusions and fixes leave a copy in every layer."""
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
