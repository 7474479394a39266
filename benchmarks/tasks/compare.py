"""Two answers of a pipeline: equal in words and places, and by how much their numbers differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.user_runs.answers import plain


@dataclass
class Compared:
    """What differs.

    Attributes:
        problem: a word, a key, a shape or a whole number that differs, in words; None if there is none.
        error: largest difference of two numbers, as a share of the largest number of its array if that is above 1.
        numbers: how many were compared.
        pixels: share of pixels of images that differ by more than one step of 255.
    """

    problem: str | None = None
    error: float = 0.0
    numbers: int = 0
    pixels: float = 0.0


def compare(expected: Any, found: Any) -> Compared:
    """Compare two answers.

    Args:
        expected: of transformers.
        found: of the folder.
    """
    result = Compared()
    _walk(plain(expected), plain(found), "", result)
    return result


def _walk(expected: Any, found: Any, where: str, result: Compared) -> None:
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            _tell(result, where, sorted(expected), sorted(found))
            return
        for name in expected:
            _walk(expected[name], found[name], f"{where}.{name}", result)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            _tell(result, f"{where} (entries)", len(expected), len(found))
            return
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            _walk(one, other, f"{where}[{number}]", result)
    elif isinstance(expected, (float, np.ndarray)) and isinstance(found, (float, np.ndarray)):
        _numbers(np.asarray(expected), np.asarray(found), where, result)
    elif expected != found:
        _tell(result, where, expected, found)


def _numbers(expected: np.ndarray, found: np.ndarray, where: str, result: Compared) -> None:
    if expected.shape != found.shape:
        _tell(result, f"{where} (shape)", expected.shape, found.shape)
        return
    if not expected.size:
        return
    if expected.dtype.kind in "ub" or found.dtype.kind in "ub":  # images; masks of 0 and 255, or 0 and 1
        steps = np.abs(_steps(expected) - _steps(found))
        result.pixels = max(result.pixels, float((steps > 1).mean()))
        return
    far = np.abs(expected.astype(np.float64) - found.astype(np.float64))
    result.error = max(result.error, float(far.max() / max(1.0, np.abs(expected).max())))
    result.numbers += expected.size


def _steps(image: np.ndarray) -> np.ndarray:
    top = 255 if image.dtype == bool or image.max() <= 1 else 1
    return image.astype(np.int64) * top


def _tell(result: Compared, where: str, expected: Any, found: Any) -> None:
    told = f"{where or 'the result'} is {found!r} instead of {expected!r}"
    result.problem = result.problem or told[:200]
