"""The optimizer's rules, each tried only where it can match: the same graph, without a look at every node."""

from __future__ import annotations

import onnx_ir
import pytest
from onnxscript import optimizer, rewriter

from onnxport.graph.simplify import rules_by_operator, simplify

# Two slices, a reshape of a reshape, a cast to the same type, and two transposes that undo each other.
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
graph (float[N, 8] x) => (float[N, 4] y, float[M, 2] z)
<int64[1] zero = {0}, int64[1] four = {4}, int64[1] eight = {8}, int64[1] last = {1},
 int64[2] pairs = {-1, 2}, int64[2] fours = {-1, 4}>
{
    same = Cast <to = 1> (x)
    left = Slice (same, zero, four, last)
    right = Slice (same, four, eight, last)
    sum = Add (left, right)
    turned = Transpose <perm = [1, 0]> (sum)
    y = Transpose <perm = [1, 0]> (turned)
    once = Reshape (right, fours)
    z = Reshape (once, pairs)
}
"""


@pytest.fixture
def operators():
    def optimized():
        model = onnx_ir.from_onnx_text(TEXT)
        optimizer.optimize_ir(model)
        return [(node.op_type, [value.name for value in node.inputs]) for node in model.graph]

    return optimized


def test_the_same_graph_comes_out(operators):
    plain = operators()
    with rules_by_operator(18):
        assert operators() == plain
    assert [name for name, _ in plain] == ["Slice", "Slice", "Add", "Reshape"]


def test_a_rule_of_two_outputs_sees_only_its_operator(monkeypatch, operators):
    rule = next(rule for rule in rewriter._DEFAULT_REWRITE_RULES if len(rule._matcher.pattern.output_nodes) > 1)
    own, seen = rule._matcher, []

    def match(model, graph, node, **settings):
        seen.append(node.op_type)
        return type(own).match(own, model, graph, node, **settings)

    monkeypatch.setattr(own, "match", match)
    with rules_by_operator(18):
        operators()
    assert set(seen) == {"Slice"}
    assert rule._matcher is own


TINY = """
<ir_version: 10, opset_import: ["" : 20]>
graph (float[N] x) => (float[N] y)
<float small = {1e-10}, float nearly = {1.000005}, float zero = {0.0}, float one = {1.0}>
{
    a = Add (x, small)
    b = Mul (a, nearly)
    c = Sub (b, small)
    d = Div (c, nearly)
    e = Add (d, zero)
    y = Mul (e, one)
}
"""


def test_a_number_that_is_nearly_zero_or_one_stays():
    model = onnx_ir.from_onnx_text(TINY)
    simplify(model)
    assert [node.op_type for node in model.graph] == ["Add", "Mul", "Sub", "Div"]


def test_without_the_repair_it_goes():
    model = onnx_ir.from_onnx_text(TINY)
    optimizer.optimize_ir(model)
    assert [node.op_type for node in model.graph] == ["Identity"]  # when this fails, `exact_constants` can go
