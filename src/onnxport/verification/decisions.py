"""What a user sees in the outputs: labels, tokens, spans, boxes; and whether two runs decide alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxport.dummy_inputs.base import Arrays


@dataclass(frozen=True)
class Agreement:
    """How far the decisions of two runs are the same.

    Attributes:
        share: of decisions that are equal, 0 to 1.
        ties: number that are not, where the source's own two candidates are so near that either may win.
        widest: of all that are not, by how much the source's candidate led; 0 where all are equal.
        wrong: number that are not equal, and no ties.
    """

    share: float
    ties: int
    widest: float
    wrong: int


def decide(decision: str, outputs: Arrays, inputs: Arrays) -> np.ndarray | None:
    """What a user sees: integers to compare for equality. None when the outputs do not hold it."""
    found = _scores(decision, outputs)
    if not found:
        return None
    chosen = np.stack([_best(scores) for scores in found]) if len(found) > 1 else _best(found[0])
    mask = _visible(decision, chosen, inputs)
    return chosen if mask is None else np.where(mask, chosen, -1)


def agreement(
    decision: str, wanted: Arrays, found: Arrays, inputs: Arrays, allowed: dict[str, float]
) -> Agreement | None:
    """Compare the decisions of two runs.

    A decision may differ only where the source's two candidates are within twice what the output may be off: once for
    each of them.

    Args:
        wanted, found: outputs of the source and of the graph, of equal shapes.
        allowed: output -> tolerance.

    Returns:
        None where the outputs hold no decision.
    """
    one, other = decide(decision, wanted, inputs), decide(decision, found, inputs)
    if one is None or other is None or one.size == 0 or one.shape != other.shape:
        return None
    differ = one != other
    if not differ.any():
        return Agreement(1.0, 0, 0.0, 0)
    scores = _scores(decision, wanted)
    leads = np.stack([_lead(s, b) for s, b in zip(scores, _choices(scores, other), strict=True)])
    limits = np.array([2 * allowed.get(name, 0.0) for name in _names(decision, wanted)]).reshape(
        -1, *[1] * (leads.ndim - 1)
    )
    leads, limits = np.broadcast_arrays(leads, limits)
    differ = np.broadcast_to(differ if len(scores) > 1 else differ[None], leads.shape)
    wrong = differ & ~(leads <= limits)
    return Agreement(
        float((one == other).mean()), int((differ & ~wrong).sum()), float(leads[differ].max()), int(wrong.sum())
    )


def _names(decision: str, outputs: Arrays) -> list[str]:
    match decision:
        case "label" | "box" | "token" | "class map":
            known: tuple[str, ...] = ("logits", "class_queries_logits")
            return [name for name in known if name in outputs][:1]
        case "span":
            return ["start_logits", "end_logits"] if "start_logits" in outputs else []
        case "nearest text":
            return ["logits_per_image"] if "logits_per_image" in outputs else []
    return []


def _scores(decision: str, outputs: Arrays) -> list[np.ndarray]:
    """The scores among which the largest is chosen, with the candidates on the last axis."""
    found = [outputs[name] for name in _names(decision, outputs)]
    return [np.moveaxis(scores, 1, -1) for scores in found] if decision == "class map" else found


def _best(scores: np.ndarray) -> np.ndarray:
    if scores.shape[-1] == 1:  # one score is for or against
        return np.asarray(scores > 0, np.int64)
    return np.asarray(scores.argmax(-1))


def _choices(scores: list[np.ndarray], chosen: np.ndarray) -> list[np.ndarray]:
    return list(chosen) if len(scores) > 1 else [chosen]


def _lead(scores: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how much the best candidate leads another one."""
    if scores.shape[-1] == 1:
        return np.asarray(np.abs(scores))
    other = np.maximum(other, 0)  # hidden places are -1 in both
    return np.asarray(scores.max(-1) - np.take_along_axis(scores, other[..., None], -1)[..., 0])


def _visible(decision: str, chosen: np.ndarray, inputs: Arrays) -> np.ndarray | None:
    mask = inputs.get("attention_mask")
    if decision != "token" or mask is None or mask.shape != chosen.shape:
        return None
    return np.asarray(mask == 1)
