"""From start and end scores to answers. numpy only: no pipeline, no framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """One window of a context.

    Attributes:
        context: the whole context.
        inside: per token, whether it is of the context (not the question, not special).
        tokens: per token, first and past-the-end character of the context.
        words: the same of the word that it is a piece of.
        null: place of the token that stands for "no answer", or None.
    """

    context: str
    inside: tuple[bool, ...]
    tokens: tuple[tuple[int, int], ...]
    words: tuple[tuple[int, int], ...]
    null: int | None


def best_spans(
    windows: Iterable[tuple[Window, NDArray[np.float64], NDArray[np.float64]]],
    *,
    top_k: int,
    max_answer_len: int,
    impossible: bool,
    whole_words: bool,
) -> list[dict[str, Any]]:
    """The best answers of all windows, best first.

    In every window the scores are softmaxed over the tokens of the context and the null token;
    a span's score is P(start) * P(end), and that of "no answer" the smallest of the windows'
    scores of the null token. A span that two windows share counts once, with its better score.

    Args:
        windows: a window, its start logits and its end logits (tokens,).
        top_k: how many.
        max_answer_len: longest span, in tokens.
        impossible: whether "no answer" (start 0, end 0, "") takes part; it always does where there is no span.
        whole_words: widen spans to whole words.

    Returns:
        dicts of score (0 to 1), start, end (characters) and answer.
    """
    found: dict[tuple[int, int], float] = {}
    null_score = 1.0
    context = ""
    for window, start_logits, end_logits in windows:
        context = window.context
        inside = np.asarray(window.inside)
        start, end = (_softmax(logits, inside, window.null) for logits in (start_logits, end_logits))
        null_score = min(null_score, 0.0 if window.null is None else float(start[window.null] * end[window.null]))
        start, end = np.where(inside, start, 0.0), np.where(inside, end, 0.0)
        edges = window.words if whole_words else window.tokens
        own: dict[tuple[int, int], float] = {}  # several pairs of tokens can be the same words
        for first, last in _pairs(start, end, max_answer_len):
            span = _trimmed(context, edges[first][0], edges[last][1])
            if span[0] < span[1]:
                own.setdefault(span, float(start[first] * end[last]))
            if len(own) == top_k:
                break
        for span, score in own.items():
            found[span] = max(found.get(span, 0.0), score)
    answers: list[dict[str, Any]] = [
        {"score": score, "start": span[0], "end": span[1], "answer": context[span[0] : span[1]]}
        for span, score in found.items()
    ]
    if impossible or not answers:
        answers.append({"score": null_score, "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda answer: (-answer["score"], answer["start"], answer["end"]))[:top_k]


def _softmax(logits: NDArray[np.float64], inside: NDArray[np.bool_], null: int | None) -> NDArray[np.float64]:
    """Probabilities over the tokens of the context and the null token; zero elsewhere."""
    counted = inside.copy()
    if null is not None:
        counted[null] = True
    if not counted.any():
        return np.zeros_like(logits)
    shifted = np.where(counted, logits - logits[counted].max(), -np.inf)
    weights: NDArray[np.float64] = np.exp(shifted)
    weights /= weights.sum()
    return weights


def _pairs(start: NDArray[np.float64], end: NDArray[np.float64], max_answer_len: int) -> Iterator[tuple[int, int]]:
    """(start, end) tokens of all spans with start <= end and at most `max_answer_len` tokens, best first."""
    size = len(start)
    firsts = np.repeat(np.arange(size), max_answer_len)
    lasts = firsts + np.tile(np.arange(max_answer_len), size)
    fits = lasts < size
    firsts, lasts = firsts[fits], lasts[fits]
    scores = start[firsts] * end[lasts]
    for place in np.argsort(-scores, kind="stable"):
        if scores[place] <= 0.0:
            return
        yield int(firsts[place]), int(lasts[place])


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its edges (byte-level tokens begin with a space)."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
