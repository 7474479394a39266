"""Answers as JSON: arrays become lists, and images PNG files in a data URL."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np


def to_json(answer: Any) -> Any:
    """The answer of a pipeline as JSON types.

    Args:
        answer: numbers, texts, arrays, PIL images, and lists and mappings of them. NaN and infinities become null:
            JSON has none.
    """
    if isinstance(answer, Mapping):
        return {str(key): to_json(value) for key, value in answer.items()}
    if isinstance(answer, (list, tuple)):
        return [to_json(item) for item in answer]
    if isinstance(answer, np.ndarray):
        return to_json(answer.tolist())
    if isinstance(answer, np.generic):
        return to_json(answer.item())
    if isinstance(answer, float):
        return answer if np.isfinite(answer) else None
    if hasattr(answer, "getbbox"):
        file = BytesIO()
        answer.save(file, format="PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return answer
