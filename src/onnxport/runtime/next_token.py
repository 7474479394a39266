"""From logits to the next token: transformers' processors, in its order and in its float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.generation_settings import GenerationSettings

Logits = NDArray[np.float32]


def next_tokens(
    logits: Logits,
    seen: NDArray[np.int64],
    made: int,
    settings: GenerationSettings,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """One token a row.

    Args:
        logits: (rows, vocabulary).
        seen: (rows, tokens), prompt and answer so far; the penalty is for these.
        made: tokens of the answer so far.

    Returns:
        (rows,) int64.
    """
    scores = _processed(logits.copy(), seen, made, settings)
    if not settings.do_sample:
        return scores.argmax(-1)
    probabilities = softmax(drawn_from(scores, settings).astype(np.float64))
    return np.array([rng.choice(len(row), p=row) for row in probabilities], np.int64)


def drawn_from(scores: Logits, settings: GenerationSettings) -> Logits:
    """Scores after temperature, top-k, top-p and min-p; what is out of the draw is -inf."""
    scores = scores / np.float32(settings.temperature)
    if settings.top_k:
        least = np.sort(scores, -1)[:, -min(settings.top_k, scores.shape[-1])]
        scores = np.where(scores < least[:, None], -np.inf, scores)
    if settings.top_p < 1:
        order = np.argsort(scores, -1, kind="stable")
        summed = softmax(np.take_along_axis(scores, order, -1)).cumsum(-1)
        out = summed <= 1 - settings.top_p
        out[:, -1] = False
        removed = np.zeros_like(out)
        np.put_along_axis(removed, order, out, -1)
        scores = np.where(removed, -np.inf, scores)
    if settings.min_p:
        probabilities = softmax(scores)
        scores = np.where(probabilities < settings.min_p * probabilities.max(-1, keepdims=True), -np.inf, scores)
    return scores.astype(np.float32)


def softmax(scores: Logits) -> Logits:
    """exp(x) / sum(exp(x)) over the last axis."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    result: Logits = powers / powers.sum(-1, keepdims=True)
    return result


def _processed(scores: Logits, seen: NDArray[np.int64], made: int, settings: GenerationSettings) -> Logits:
    if settings.repetition_penalty != 1:
        # CTRL (arXiv 1909.05858): divides what is above zero and multiplies what is below.
        penalty = np.float32(settings.repetition_penalty)
        picked = np.take_along_axis(scores, seen, -1)
        np.put_along_axis(scores, seen, np.where(picked < 0, picked * penalty, picked / penalty), -1)
    if made < settings.min_new_tokens:
        scores[:, list(settings.eos_token_id)] = -np.inf
    return scores
