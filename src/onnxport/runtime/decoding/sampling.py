"""Drawing the next token: transformers' changes of the distribution, in its order and in its float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.decoding.settings import GenerationSettings

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]


def sample_tokens(scores: Logits, settings: GenerationSettings, rng: np.random.Generator) -> Ids:
    """One token a row: the best, or a drawn one.

    Args:
        scores: (rows, vocabulary), after all rules.

    Returns:
        (rows,) int64.
    """
    if not settings.do_sample:
        best: Ids = scores.argmax(-1)
        return best
    probabilities = softmax(scores.astype(np.float64))
    return np.array([rng.choice(len(row), p=row) for row in probabilities], np.int64)


def warp_logits(scores: Logits, settings: GenerationSettings) -> Logits:
    """Scores after temperature, top-k, top-p, min-p, typical-p and the cutoffs; what is out of the draw is -inf."""
    # Beams need a token to go on with beside every token that ends a text.
    keep = 1 if settings.num_beams == 1 else (len(settings.eos_token_id) or 1) + 1
    keep = min(keep, scores.shape[-1])
    scores = scores / np.float32(settings.temperature)
    if settings.top_k:
        scores = np.where(scores < _largest(scores, max(settings.top_k, keep)), -np.inf, scores)
    if settings.top_p < 1:
        order = np.argsort(scores, -1, kind="stable")
        summed = softmax(np.take_along_axis(scores, order, -1)).cumsum(-1)
        out = summed <= 1 - settings.top_p
        out[:, -keep:] = False
        scores = np.where(_scattered(out, order), -np.inf, scores)
    if settings.min_p:
        probabilities = softmax(scores)
        out = probabilities < settings.min_p * probabilities.max(-1, keepdims=True)
        scores = np.where(out & (probabilities < _largest(probabilities, keep)), -np.inf, scores)
    if settings.typical_p < 1:
        scores = _typical(scores, settings.typical_p, keep)
    if settings.epsilon_cutoff:
        out = softmax(scores) < settings.epsilon_cutoff
        scores = np.where(out & (scores < _largest(scores, keep)), -np.inf, scores)
    if settings.eta_cutoff:
        probabilities, epsilon = softmax(scores), np.float32(settings.eta_cutoff)
        logs = np.maximum(log_softmax(scores), np.finfo(np.float32).min)
        entropy = -(logs * probabilities).sum(-1, keepdims=True)
        out = probabilities < np.minimum(epsilon, np.sqrt(epsilon) * np.exp(-entropy))
        scores = np.where(out & (scores < _largest(scores, keep)), -np.inf, scores)
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


def _typical(scores: Logits, mass: float, keep: int) -> Logits:
    """Keeps tokens whose information is closest to the expected one (arXiv 2202.00666)."""
    logs = log_softmax(scores)
    with np.errstate(invalid="ignore"):
        expected = -np.nansum(logs * np.exp(logs), -1, keepdims=True)
    distance = np.abs(-logs - expected)
    order = np.argsort(distance, -1, kind="stable")
    ordered = np.take_along_axis(distance, order, -1)
    summed = softmax(np.take_along_axis(scores, order, -1)).cumsum(-1)
    last = np.minimum((summed < mass).sum(-1, keepdims=True), scores.shape[-1] - 1)
    out = ordered > np.take_along_axis(ordered, last, -1)
    out[:, :keep] = False
    result: Logits = np.where(_scattered(out, order), -np.inf, scores)
    return result


def _largest(values: Logits, count: int) -> Logits:
    """The `count`-th largest of each row, (rows, 1)."""
    place = values.shape[-1] - min(count, values.shape[-1])
    result: Logits = np.partition(values, place, -1)[:, place : place + 1]
    return result


def _scattered(marks: NDArray[np.bool_], order: Ids) -> NDArray[np.bool_]:
    placed = np.zeros_like(marks)
    np.put_along_axis(placed, order, marks, -1)
    return placed
