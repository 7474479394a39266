"""The result of a pipeline as lines of text and as JSON types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_FIRST = 6  # numbers of an array that are shown
_HIDDEN = ("score", "input_text")  # shown elsewhere, or the user's own input
_LONG = 64  # longer lists of numbers are summarized


def as_document(answer: Any) -> Any:
    """The answer as JSON types; images and large arrays are summarized."""
    if isinstance(answer, Mapping):
        return {str(key): as_document(value) for key, value in answer.items()}
    if _is_image(answer):
        return _describe_image(answer)
    if _is_array(answer):
        return _describe_array(np.asarray(answer))
    if isinstance(answer, (list, tuple)):
        return _describe_array(np.asarray(answer)) if _is_numbers(answer) else [as_document(item) for item in answer]
    return answer


def as_lines(answer: Any) -> list[str]:
    """The answer as lines of text, with the best score first."""
    document = as_document(answer)
    if isinstance(document, list):
        return [line for item in document for line in as_lines(item)] or ["nothing found"]
    if not isinstance(document, Mapping):
        return [str(document)]
    if isinstance(document.get("labels"), list) and isinstance(document.get("scores"), list):
        return [f"{score:.4f}  {label}" for score, label in zip(document["scores"], document["labels"], strict=True)]
    if set(document) == {"text"}:
        return [str(document["text"])]
    score = document.get("score")
    rest = {key: value for key, value in document.items() if key not in _HIDDEN and value is not None}
    # The answer itself comes first, without its name.
    main = next(
        (key for key in ("answer", "label", "entity_group", "entity", "token_str", "choice") if key in rest), None
    )
    words = [f"{score:.4f}"] if isinstance(score, float) else []
    if main is not None:
        words.append(str(rest.pop(main)))
    return ["  ".join(words + [f"{key}: {_short(value)}" for key, value in rest.items()])]


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_short(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_image(value: Any) -> bool:
    return hasattr(value, "getbbox") and hasattr(value, "size")


def _describe_image(image: Any) -> dict[str, Any]:
    """Size of an image; of a mask also the share of its pixels that are set."""
    pixels = np.asarray(image)
    described: dict[str, Any] = {"width": int(image.size[0]), "height": int(image.size[1])}
    if pixels.ndim == 2:
        described["share"] = round(float((pixels > 0).mean()), 6)
    return described


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and getattr(value, "ndim", 0) > 0


def _is_numbers(value: Any) -> bool:
    """Whether it is a nested or a long list of numbers; a few scores are shown as they are."""
    large = len(value) > _LONG or (bool(value) and isinstance(value[0], (list, tuple)))
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return large and isinstance(value, float)


def _describe_array(values: np.ndarray) -> dict[str, Any]:
    flat = values.ravel().astype(np.float64)
    described: dict[str, Any] = {"shape": list(values.shape), "first": [float(value) for value in flat[:_FIRST]]}
    if flat.size:
        described |= {"min": float(flat.min()), "max": float(flat.max()), "mean": float(flat.mean())}
    return described
