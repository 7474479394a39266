"""Which sizes a graph gets of what a user said: axes that follow from others, restrictions, and errors."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxport.artifact.manifest import Component
from onnxport.errors import UsageError
from onnxport.specs import CaseCheck, Limit, Restriction, TensorSpec, Verification
from onnxport.variants.static_shapes.plan import derived_axes, example_command, free_axes, parse_sizes, plan_sizes

PAST, NEW, TOTAL = "past_sequence_length", "sequence_length", "total_sequence_length"


def component(name="model", axes=None, restrictions=(), sizes=()):
    """A graph with one input an entry of `axes`."""
    inputs = [TensorSpec(f"input_{n}", "int64", tuple(one)) for n, one in enumerate(axes or [])]
    cases = tuple(CaseCheck(str(n), dict(one), ()) for n, one in enumerate(sizes))
    verification = Verification(True, "", "", 0, 0, cases)
    return Component(name, f"onnx/{name}.onnx", 23, "float32", 1, tuple(inputs), (), tuple(restrictions), verification)


def decoder(**changes):
    sizes = [
        {"batch_size": rows, PAST: past, NEW: new, TOTAL: past + new}
        for rows, past, new in ((2, 7, 5), (1, 7, 5), (2, 10, 61), (5, 6, 6), (3, 0, 5))
    ]
    axes = [("batch_size", NEW), ("batch_size", TOTAL), ("batch_size", 2, PAST, 8)]
    return component(axes=axes, sizes=sizes, **changes)


def test_the_total_follows_and_is_not_asked_for():
    assert derived_axes(decoder()) == {TOTAL: f"{PAST} + {NEW}"}
    assert free_axes(decoder()) == ["batch_size", NEW, PAST]
    (plan,) = plan_sizes([decoder()], {"batch_size": 1, NEW: 3, PAST: 20}, "F")
    assert plan.sizes == {"batch_size": 1, NEW: 3, PAST: 20, TOTAL: 23}
    assert plan.with_sizes(**{NEW: 1})[TOTAL] == 21


def test_a_sum_that_holds_by_chance_in_few_cases_is_none():
    axes = [("a",), ("b",), ("c",)]
    two = [{"a": 1, "b": 2, "c": 3}, {"a": 2, "b": 3, "c": 5}]
    assert derived_axes(component(axes=axes, sizes=two)) == {}
    assert derived_axes(component(axes=axes, sizes=[*two, {"a": 4, "b": 4, "c": 9}])) == {}
    assert derived_axes(component(axes=axes, sizes=[*two, {"a": 4, "b": 5, "c": 9}])) == {"c": "a + b"}


def test_an_axis_that_is_equal_to_another_follows_from_it():
    one = component(axes=[("a",), ("b",)], restrictions=[Restriction("b", Limit.EQUAL, "a", "the model adds them")])
    (plan,) = plan_sizes([one], {"a": 4}, "F")
    assert plan.sizes == {"a": 4, "b": 4}


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_total_that_is_said_must_be_right(new, rows, said):
    sizes = {"batch_size": rows, NEW: new, PAST: 40, TOTAL: said + 1}
    if said + 1 == 40 + new:
        assert plan_sizes([decoder()], sizes, "F")
    else:
        with pytest.raises(UsageError, match=f"{TOTAL}={said + 1} cannot be"):
            plan_sizes([decoder()], sizes, "F")


@pytest.mark.parametrize(
    ("rule", "size", "kept"),
    [("multiple of 32", 48, 64), ("at most 16", 17, 16), ("at least 100", 99, 100), ("multiple of 48", 64, 48)],
)
def test_restrictions_are_kept_and_the_example_keeps_them(rule, size, kept):
    one = component(axes=[("a",)], restrictions=[Restriction.from_rule("a", rule, "why")])
    with pytest.raises(UsageError, match=re.escape(f"a is {size}, it must be {rule} (why)")) as caught:
        plan_sizes([one], {"a": size}, "F")
    assert caught.value.hint == example_command("F", [one])
    assert plan_sizes([one], {"a": int(str(caught.value.hint).rpartition("=")[2])}, "F")[0].sizes == {"a": kept}


def test_an_axis_of_one_size():
    limits = [Restriction("height", Limit.FIXED, 32, "it is so")]
    one = component(axes=[("batch_size", 3, 32)], restrictions=limits)
    with pytest.raises(UsageError, match=r"height=31: the axis is static, model is fixed at 32 \(it is so\)"):
        plan_sizes([one], {"batch_size": 1, "height": 31}, "F")
    assert plan_sizes([one], {"batch_size": 1, "height": 32}, "F")[0].sizes == {"batch_size": 1}
    with pytest.raises(UsageError, match=r"names no dynamic axis"):
        plan_sizes([one], {"height": 32}, "F")
    with pytest.raises(UsageError, match="their shapes are static already"):
        plan_sizes([component(axes=[(1, 2)])], {"batch_size": 1}, "F")


def test_one_graph_of_several():
    encoder = component("encoder_model", [("batch_size", "sequence_length")])
    decoding = component(
        "decoder_model", [("batch_size", "sequence_length"), ("batch_size", "encoder_sequence_length")]
    )
    both = [encoder, decoding]
    plans = plan_sizes(both, {"batch_size": 1, "sequence_length": 2, "encoder_sequence_length": 9}, "F")
    assert [plan.sizes["sequence_length"] for plan in plans] == [9, 2]
    alone = plan_sizes(both, {"encoder_model.batch_size": 3, "encoder_model.sequence_length": 5}, "F")
    assert [(plan.component.name, plan.sizes) for plan in alone] == [
        ("encoder_model", {"batch_size": 3, "sequence_length": 5})
    ]
    with pytest.raises(UsageError, match="also encoder_model for sequence_length; decoder_model for") as caught:
        plan_sizes(both, {"batch_size": 4}, "F")
    said = str(caught.value.hint).rpartition("--sizes ")[2]
    assert len(plan_sizes(both, parse_sizes(said), "F")) == 2  # the example works
    assert "batch_size=4" in said


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.integers(0, 10**6), min_size=1))
@settings(max_examples=50, deadline=None)
def test_sizes_are_read_as_they_are_written(sizes):
    assert parse_sizes(", ".join(f"{name} = {size}" for name, size in sizes.items())) == sizes


@pytest.mark.parametrize("text", ["", "a", "a=", "=1", "a=1,", "a=x", "a=1.5", "a=-1", "a=1,a=1", "a==1"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match=r"AXIS=NUMBER|has two sizes"):
        parse_sizes(text)
