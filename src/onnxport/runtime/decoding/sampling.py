"""Choosing the next token: the most likely one, or a draw from a distribution that is changed as transformers does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.decoding.settings import GenerationSettings

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]
Marks = NDArray[np.bool_]


def sample_tokens(scores: Logits, settings: GenerationSettings, rng: np.random.Generator) -> Ids:
    """One token a row: the most likely one, or with `do_sample` a draw.

    Args:
        scores: (rows, vocabulary), after all logits processors.

    Returns:
        (rows,) int64.
    """
    if not settings.do_sample:
        best: Ids = scores.argmax(-1)
        return best
    probabilities = softmax(scores.astype(np.float64))
    return np.array([rng.choice(len(row), p=row) for row in probabilities], np.int64)


def warp_logits(scores: Logits, settings: GenerationSettings) -> Logits:
    """Scores after temperature, top-k, top-p, min-p, typical-p, epsilon cutoff and eta cutoff, in this order.

    Args:
        scores: (rows, vocabulary).

    Returns:
        The same shape; -inf where a token cannot be drawn.
    """
    # Beam search needs a token to go on with beside every token that ends a text.
    keep = 1 if settings.num_beams == 1 else (len(settings.eos_token_id) or 1) + 1
    keep = min(keep, scores.shape[-1])
    scores = scores / np.float32(settings.temperature)
    for warp in (_top_k, _top_p, _min_p, _typical_p, _epsilon_cutoff, _eta_cutoff):
        scores = warp(scores, settings, keep)
    return scores.astype(np.float32)


def softmax(scores: Logits) -> Logits:
    """exp(x) / sum(exp(x)) over the last axis."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    result: Logits = powers / powers.sum(-1, keepdims=True)
    return result


def log_softmax(scores: Logits) -> Logits:
    """The logarithm of `softmax`."""
    moved = scores - scores.max(-1, keepdims=True)
    result: Logits = moved - np.log(np.exp(moved).sum(-1, keepdims=True))
    return result


# Each takes the scores, the settings, and how many tokens must stay possible.


def _top_k(scores: Logits, settings: GenerationSettings, keep: int) -> Logits:
    """Only the k most likely tokens (arXiv 1805.04833)."""
    if not settings.top_k:
        return scores
    return _without(scores, scores < _largest(scores, max(settings.top_k, keep)))


def _top_p(scores: Logits, settings: GenerationSettings, keep: int) -> Logits:
    """The most likely tokens whose probabilities add up to p (arXiv 1904.09751)."""
    if settings.top_p >= 1:
        return scores
    order = np.argsort(scores, -1, kind="stable")
    summed = softmax(np.take_along_axis(scores, order, -1)).cumsum(-1)
    out = summed <= 1 - settings.top_p
    out[:, -keep:] = False
    return _without(scores, _unsorted(out, order))


def _min_p(scores: Logits, settings: GenerationSettings, keep: int) -> Logits:
    """Tokens of at least p times the largest probability (arXiv 2407.01082)."""
    if not settings.min_p:
        return scores
    probabilities = softmax(scores)
    out = probabilities < settings.min_p * probabilities.max(-1, keepdims=True)
    return _without(scores, out & (probabilities < _largest(probabilities, keep)))


def _typical_p(scores: Logits, settings: GenerationSettings, keep: int) -> Logits:
    """Tokens whose information is closest to the expected one (arXiv 2202.00666)."""
    if settings.typical_p >= 1:
        return scores
    logs = log_softmax(scores)
    with np.errstate(invalid="ignore"):
        expected = -np.nansum(logs * np.exp(logs), -1, keepdims=True)
    distance = np.abs(-logs - expected)
    order = np.argsort(distance, -1, kind="stable")
    ordered = np.take_along_axis(distance, order, -1)
    summed = softmax(np.take_along_axis(scores, order, -1)).cumsum(-1)
    last = np.minimum((summed < settings.typical_p).sum(-1, keepdims=True), scores.shape[-1] - 1)
    out = ordered > np.take_along_axis(ordered, last, -1)
    out[:, :keep] = False
    return _without(scores, _unsorted(out, order))


def _epsilon_cutoff(scores: Logits, settings: GenerationSettings, keep: int) -> Logits:
    """Tokens of at least the probability epsilon (arXiv 2210.15191)."""
    if not settings.epsilon_cutoff:
        return scores
    out = softmax(scores) < settings.epsilon_cutoff
    return _without(scores, out & (scores < _largest(scores, keep)))


def _eta_cutoff(scores: Logits, settings: GenerationSettings, keep: int) -> Logits:
    """As `_epsilon_cutoff`, with a lower limit where the distribution is flat (arXiv 2210.15191)."""
    if not settings.eta_cutoff:
        return scores
    probabilities, epsilon = softmax(scores), np.float32(settings.eta_cutoff)
    logs = np.maximum(log_softmax(scores), np.finfo(np.float32).min)
    entropy = -(logs * probabilities).sum(-1, keepdims=True)
    out = probabilities < np.minimum(epsilon, np.sqrt(epsilon) * np.exp(-entropy))
    return _without(scores, out & (scores < _largest(scores, keep)))


def _without(scores: Logits, out: Marks) -> Logits:
    result: Logits = np.where(out, -np.inf, scores)
    return result


def _largest(values: Logits, count: int) -> Logits:
    """The `count`-th largest value of each row, (rows, 1)."""
    place = values.shape[-1] - min(count, values.shape[-1])
    result: Logits = np.partition(values, place, -1)[:, place : place + 1]
    return result


def _unsorted(marks: Marks, order: Ids) -> Marks:
    """Marks of sorted tokens in the order of the vocabulary."""
    placed = np.zeros_like(marks)
    np.put_along_axis(placed, order, marks, -1)
    return placed
