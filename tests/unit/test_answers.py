"""When two answers of a pipeline are equal for the person who reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxport.user_runs.answers import difference, plain
from onnxport.user_runs.parts import first_difference


def candidates(**scores: float) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in scores.items()]


EQUAL: dict[str, tuple[Any, Any]] = {
    "rounding": (candidates(a=0.9, b=0.1), candidates(a=0.9000004, b=0.0999996)),
    "a near tie in another order": (candidates(a=0.4001, b=0.4, c=0.2), candidates(b=0.4001, a=0.4, c=0.2)),
    "a near tie at the end of a list": (candidates(a=0.7, b=0.1001), candidates(a=0.7, c=0.1002)),
    "boxes rounded the other way": (
        {"label": "cat", "score": 0.9, "box": {"xmin": 4, "xmax": 9}},
        {"label": "cat", "score": 0.9, "box": {"xmin": 5, "xmax": 9}},
    ),
    "infinities": (np.array([np.inf, -np.inf, 1.0]), np.array([np.inf, -np.inf, 1.0])),
    "an edge of a mask": (np.zeros((40, 40), np.uint8), np.eye(40, dtype=np.uint8)[::-1] * 0),
}
DIFFERENT: dict[str, tuple[Any, Any]] = {
    "labels swapped": (candidates(a=0.9, b=0.1), candidates(b=0.9, a=0.1)),
    "another label": (candidates(a=0.9, b=0.1), candidates(LABEL_0=0.9, b=0.1)),
    "another score": (candidates(a=0.9, b=0.1), candidates(a=0.85, b=0.15)),
    "another single label": ({"label": "a", "score": 0.9}, {"label": "b", "score": 0.9}),
    "one entry less": (candidates(a=0.9, b=0.1), candidates(a=0.9)),
    "a span": ({"score": 0.5, "start": 4, "answer": "Ada"}, {"score": 0.5, "start": 5, "answer": "Ada"}),
    "a text": ([{"generated_text": "a b"}], [{"generated_text": "a c"}]),
    "tokens": ([1, 2, 3], [1, 2, 4]),
    "a vector": (np.array([1.0, 2.0]), np.array([1.0, 2.2])),
    "a shape": (np.zeros((1, 5)), np.zeros((1, 6))),
    "an image": (np.zeros((10, 10), np.uint8), np.full((10, 10), 9, np.uint8)),
    "a key": ({"a": 1}, {"b": 1}),
    "no number": (np.array([1.0]), np.array([np.nan])),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal(name: str) -> None:
    assert difference(*map(plain, EQUAL[name])) is None


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name: str) -> None:
    told = difference(*map(plain, DIFFERENT[name]), "result")
    assert told is not None and told.startswith("result")


def test_labels_and_scores_in_two_lists_are_candidates() -> None:
    source = plain({"sequence": "x", "labels": ["a", "b"], "scores": [0.5001, 0.4999]})
    assert difference(source, plain({"sequence": "x", "labels": ["b", "a"], "scores": [0.5001, 0.4999]})) is None
    assert difference(source, plain({"sequence": "x", "labels": ["b", "a"], "scores": [0.6, 0.4]})) is not None


def test_texts_that_begin_as_json_and_are_none() -> None:
    """Chat templates are compared as other texts; a tokenizer.json as what it holds."""
    told = first_difference(
        {"template": "{% for m in messages %}"}, {"template": "{% for n in messages %}"}, "tokenizer"
    )
    assert told is not None and "messages" in told
    told = first_difference('{"a": {"b": 1}}', '{"a": {"b": 2}}', "tokenizer")
    assert told == "tokenizer, a, b is 2 instead of 1"
