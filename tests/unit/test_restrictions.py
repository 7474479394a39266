"""What a restriction asks of sizes, and how it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxport.specs import Limit, Restriction
from onnxport.verification.case import Case
from onnxport.verification.modes import limit_by_mode

NUMBERS = [limit for limit in Limit if limit not in (Limit.EQUAL, Limit.NOTE)]


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("fixed at 7", [7], [6, 8, 0]),
        ("multiple of 4", [4, 8, 400], [2, 5, 6]),
        ("at most 512", [1, 511, 512], [513]),
        ("at least 2", [2, 3], [0, 1]),
        ("equal to b", [5], [4, 6]),
        ("padded on the left", [0, 1, 10**9], []),
        ("multiple of 0", [], [0, 1]),
    ],
)
def test_sizes(rule: str, right: list[int], wrong: list[int]) -> None:
    restriction = Restriction.from_rule("a", rule, "why")
    assert restriction.rule == rule
    for size in (*right, *wrong):
        assert restriction.holds({"a": size, "b": 5}) == (size in right)
    assert restriction.holds({"b": 5})  # nothing is said of the axis


def test_an_axis_whose_other_side_has_no_size() -> None:
    assert Restriction("a", Limit.EQUAL, "b", "").holds({"a": 3})


@given(st.sampled_from(NUMBERS), st.integers(1, 1000), st.integers(1, 1000))
def test_the_nearest_size_holds(limit: Limit, operand: int, size: int) -> None:
    restriction = Restriction("a", limit, operand, "")
    nearest = restriction.nearest(size)
    assert restriction.holds({"a": nearest})
    if restriction.holds({"a": size}):
        assert nearest == size


@given(st.sampled_from(NUMBERS), st.integers(0, 10**9))
def test_a_rule_is_read_as_it_is_written(limit: Limit, operand: int) -> None:
    restriction = Restriction("a", limit, operand, "why")
    assert Restriction.from_rule("a", restriction.rule, "why") == restriction


@given(st.text())
def test_any_text_is_kept(text: str) -> None:
    restriction = Restriction.from_rule("a", text, "")
    # 007 is 7.
    assert restriction.rule == text or isinstance(restriction.operand, int)


def test_another_mode_without_free_axes_restricts_nothing() -> None:
    """A part with fixed sizes, whose model keeps something from its first call on."""
    cases = [Case(name, {}, {}, {}) for name in ("traced", "other content")]
    assert limit_by_mode(None, None, cases, [(), ("cache",)]) == cases  # type: ignore[arg-type]
