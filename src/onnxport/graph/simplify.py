"""Constant folding and common rewrites, without reading weights.

What torch.onnx does itself when it is asked to optimize (`onnxscript.optimizer`), but after the
weights are attached: on placeholders, which are all alike, it would merge what is different.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir

# Upstream (onnxscript 0.7): rules that write an operator as it is since this opset, whatever the graph's is.
_SINCE = {"SlicesSplit": 18}
# Elements; onnxscript's own limit for operators of any kind. It folds transposes of any size, which
# `weight_layout` does while writing.
_FOLDED_UP_TO = 8192


def simplify(model: onnx_ir.Model, *, weights_stay: bool = False) -> None:
    """Simplify in place.

    Args:
        weights_stay: what is made of weights in files is not folded, for a graph that reads them where they are.
    """
    import onnxscript.optimizer
    from onnxscript.rewriter import onnx_fusions

    with rules_by_operator(model.opset_imports.get("", 0)), exact_constants():
        onnxscript.optimizer.optimize_ir(model, should_fold=_should_fold_rest if weights_stay else _should_fold)
        onnx_fusions.fuse(model)


class _ByOperator:
    """A rule's matcher that is asked only about nodes of the operator that its pattern begins with.

    Upstream (onnxscript 0.7): each rule is tried on each node, and one with two outputs (`SlicesSplit`)
    lists the whole graph first, so that the time grows with the square of the nodes.
    """

    def __init__(self, matcher: Any, allowed: bool) -> None:
        self.matcher, self.allowed = matcher, allowed
        first = matcher.pattern.output_nodes[0].op_identifier()
        self.operator = None if first is None else first[:2]  # None: any operator

    def match(self, model: Any, graph_or_function: Any, node: onnx_ir.Node, **settings: Any) -> Any:
        if not self.allowed:
            return None
        if self.operator is not None and (node.domain, node.op_type) != self.operator:
            return None  # as good as a failed match, which is all that a rule asks of it
        return self.matcher.match(model, graph_or_function, node, **settings)


@contextmanager
def rules_by_operator(opset: int) -> Iterator[None]:
    """The optimizer's own rules, each tried on nodes of its first operator alone. What they do is the same.

    Args:
        opset: of the graph; rules that write newer operators are left out.
    """
    from onnxscript import rewriter

    rules = getattr(rewriter, "_DEFAULT_REWRITE_RULES", ())  # another version without them is slower, not wrong
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
    """A rule about a whole number matches that number alone.

    Upstream (onnxscript 0.7): a constant of a pattern matches what is within 1e-8 of it, or a relative 1e-5. So
    `x + 1e-10` is taken for `x + 0` and becomes `x`: a logarithm loses what keeps it from minus infinity. Random
    inputs do not show it, silence does.
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
    """False for an operator on a large weight; None leaves it to the library's rules."""
    sizes = (value.const_value.size for value in node.inputs if value is not None and value.const_value is not None)
    return False if any(size > _FOLDED_UP_TO for size in sizes) else None


def _should_fold_rest(node: onnx_ir.Node) -> bool | None:
    """As `_should_fold`, and False for an operator on a weight in a file."""
    import onnx_ir as ir

    if any(value is not None and isinstance(value.const_value, ir.ExternalTensor) for value in node.inputs):
        return False
    return _should_fold(node)


def share_common_nodes(model: onnx_ir.Model) -> None:
    """Nodes that compute the same are one, in place: fusions and repairs leave a copy in every layer."""
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
