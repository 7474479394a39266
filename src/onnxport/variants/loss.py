"""How much of a graph's answers a variant loses, as its users see it.

- embeddings: cosine similarity with the float32 embedding of the same text, and whether each text still finds the same
  nearest other text;
- labels, tokens, boxes, class maps: the share that is another one, and the Kullback-Leibler divergence of what the
  scores say; for decoders that is the next token, as llama.cpp reports it;
- everything else: cosine similarity of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxport.artifact.tuning import Loss
from onnxport.graph.inputs import Arrays

Run = Callable[[Arrays], Arrays]
_EMBEDDINGS = ("sentence_embedding", "pooler_output", "image_embeds", "text_embeds", "last_hidden_state")
_SCORES = ("logits", "start_logits", "end_logits", "class_queries_logits")
_Z = 1.96  # of an interval that holds 95 % of means
_FEW = 8  # numbers of a row; the direction of fewer is a matter of signs


@dataclass
class _Collected:
    """What single rows and positions lost."""

    losses: list[float] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    vectors: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


def has_scores(outputs: Iterable[str]) -> bool:
    """Whether a graph with these outputs is judged by its decisions, not as embeddings."""
    return not set(_SCORES).isdisjoint(outputs)


def measure_loss(base: Run, variant: Run, calls: Sequence[Arrays], kind: str) -> Loss:
    """Run both graphs on the same inputs.

    Args:
        base, variant: from arrays to arrays, by names.
        calls: inputs.
        kind: what the inputs are, in words.
    """
    collected = _Collected()
    measure = "cosine"
    for call in calls:
        wanted, found = base(call), variant(call)
        names = [name for name in _SCORES if name in wanted]
        if names:
            measure = "decisions"
            for name in names:
                _add_scores(collected, wanted[name], found[name], _seen(call, wanted[name]))
        else:
            name = next((name for name in _EMBEDDINGS if name in wanted), next(iter(wanted)))
            _add_vectors(collected, wanted[name], found[name], _seen(call, wanted[name]))
    losses = np.array(collected.losses or [0.0])
    losses = np.maximum(losses, 0.0)  # a cosine may round to more than 1
    mean = float(losses.mean())
    return Loss(
        measure, mean, _half_width(losses), float(losses.max()), len(collected.losses), kind,
        float(np.mean(collected.divergences)) if collected.divergences else None, _same_nearest(collected.vectors),
    )  # fmt: skip


def _half_width(losses: np.ndarray) -> float:
    """Half of the 95 % interval of the mean."""
    return float(_Z * losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else float("inf")


def _seen(call: Arrays, output: np.ndarray) -> np.ndarray | None:
    """Which positions of an output are tokens and no padding; None where it has no axis of tokens."""
    mask = call.get("attention_mask")
    if mask is None or output.ndim < 2 or output.shape[:2] != mask.shape:
        return None
    return np.asarray(mask == 1)


def _add_scores(collected: _Collected, wanted: np.ndarray, found: np.ndarray, seen: np.ndarray | None) -> None:
    if wanted.ndim == 2 and seen is not None:  # scores of positions: the best position is what is chosen
        wanted, found = (np.where(seen, one, -np.inf) for one in (wanted, found))
        seen = None
    one, other = (value[seen] if seen is not None else value.reshape(-1, value.shape[-1]) for value in (wanted, found))
    if one.shape[-1] == 1:
        same = (one > 0) == (other > 0)
        collected.losses += (1.0 - same[..., 0]).tolist()
        return
    collected.losses += (one.argmax(-1) != other.argmax(-1)).astype(float).tolist()
    p, q = _log_softmax(one), _log_softmax(other)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isfinite(p) & np.isfinite(q), np.exp(p) * (p - q), 0.0)
    collected.divergences += terms.sum(-1).tolist()


def _add_vectors(collected: _Collected, wanted: np.ndarray, found: np.ndarray, seen: np.ndarray | None) -> None:
    if wanted.ndim == 3 and seen is not None:  # hidden states: the mean over the tokens, as pooling does
        weights = seen[..., None] / np.maximum(seen.sum(1), 1)[:, None, None]
        wanted, found = ((value * weights).sum(1) for value in (wanted, found))
    one, other = (value.reshape(len(value), -1).astype(np.float64) for value in (wanted, found))
    if one.shape[1] < _FEW:
        one, other = one.reshape(1, -1), other.reshape(1, -1)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.divide((one * other).sum(1), lengths, out=np.ones(len(one)), where=lengths > 0)
    collected.losses += (1 - np.nan_to_num(cosine, nan=0.0)).tolist()
    if wanted.ndim == 2 and one.shape[1] >= _FEW:
        collected.vectors += list(zip(one, other, strict=True))


def _same_nearest(vectors: list[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Share of rows whose nearest other row is the same one; None where there are few rows."""
    if len(vectors) < _FEW or len({len(one) for one, _ in vectors}) != 1:
        return None
    nearest = []
    for side in zip(*vectors, strict=True):
        rows = np.stack(side)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        likeness = rows @ rows.T
        np.fill_diagonal(likeness, -np.inf)
        nearest.append(likeness.argmax(1))
    return float((nearest[0] == nearest[1]).mean())


def _log_softmax(scores: np.ndarray) -> Any:
    values = scores.astype(np.float64)
    top = values.max(-1, keepdims=True)
    return values - top - np.log(np.exp(values - top).sum(-1, keepdims=True))
