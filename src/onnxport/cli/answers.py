"""What a pipeline returned, as lines for people and as JSON types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_FIRST = 6  # numbers of a vector that are shown
_SAID = ("score", "input_text")  # shown in another way, or what the user gave
_LONG = 64  # more numbers than this are described


def as_document(answer: Any) -> Any:
    """The answer as JSON types; pictures and large arrays as what they are, not as all their numbers."""
    if isinstance(answer, Mapping):
        return {str(key): as_document(value) for key, value in answer.items()}
    if _is_picture(answer):
        return _picture(answer)
    if _is_array(answer):
        return _array(np.asarray(answer))
    if isinstance(answer, (list, tuple)):
        return _array(np.asarray(answer)) if _is_numbers(answer) else [as_document(item) for item in answer]
    return answer


def as_lines(answer: Any) -> list[str]:
    """The answer for people, best first where there are scores."""
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
    rest = {key: value for key, value in document.items() if key not in _SAID and value is not None}
    # The part that is the answer comes first and bare.
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


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getbbox") and hasattr(value, "size")


def _picture(image: Any) -> dict[str, Any]:
    """Size of a picture, and of a mask the share of its pixels that are set."""
    pixels = np.asarray(image)
    described: dict[str, Any] = {"width": int(image.size[0]), "height": int(image.size[1])}
    if pixels.ndim == 2:
        described["share"] = round(float((pixels > 0).mean()), 6)
    return described


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and getattr(value, "ndim", 0) > 0


def _is_numbers(value: Any) -> bool:
    """Whether it is a list in a list, or a long one, of numbers; a few scores stay what they are."""
    large = len(value) > _LONG or (bool(value) and isinstance(value[0], (list, tuple)))
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return large and isinstance(value, float)


def _array(values: np.ndarray) -> dict[str, Any]:
    flat = values.ravel().astype(np.float64)
    described: dict[str, Any] = {"shape": list(values.shape), "first": [float(value) for value in flat[:_FIRST]]}
    if flat.size:
        described |= {"min": float(flat.min()), "max": float(flat.max()), "mean": float(flat.mean())}
    return described
