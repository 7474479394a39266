"""From logits to scores and labels, as transformers' pipelines compute them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.tasks.model_config import ModelConfig

FUNCTIONS = ("softmax", "sigmoid", "none")
Floats = NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis, float32."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    scores: Floats = shifted / shifted.sum(-1, keepdims=True)
    return scores


def sigmoid(logits: Floats) -> Floats:
    """The probability of each class for itself, float32."""
    scores: Floats = (1.0 / (1.0 + np.exp(-logits))).astype(logits.dtype)
    return scores


def scored(logits: Floats, function: str | None, config: ModelConfig, *, one_label: bool = True) -> Floats:
    """Scores of the classes.

    Args:
        logits: (classes,).
        function: "softmax", "sigmoid" or "none"; None chooses by the problem and the number of classes.
        config: of the model.
        one_label: a model with one class is scored by itself, with the sigmoid.

    Raises:
        UsageError: another function.
    """
    chosen = _default(config, one_label) if function is None else str(function).lower()
    if chosen not in FUNCTIONS:
        raise UsageError(f"function_to_apply={function!r} is not known.", hint=f"Use {', '.join(FUNCTIONS)}.")
    values = np.asarray(logits, np.float32)
    if chosen == "none":
        return values
    return softmax(values) if chosen == "softmax" else sigmoid(values)


def _default(config: ModelConfig, one_label: bool) -> str:
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or (one_label and len(config.labels) == 1):
        return "sigmoid"
    return "softmax"


def ranked(scores: Floats, config: ModelConfig, top_k: int | None) -> list[dict[str, Any]]:
    """The best classes with their scores, best first; all of them for None."""
    best = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": config.label(int(place)), "score": float(scores[place])} for place in best]
