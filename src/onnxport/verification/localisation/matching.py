"""Find the array of the source that a value of the graph is equal to, or nearest to.

Arrays are equal when they have the same numbers in the same order, whatever their shapes. Images of TensorFlow have
their channels last, so arrays are also looked for with the last axis moved to the second place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxport.verification.tolerance import LARGEST

_SAMPLES = 64  # elements that are looked at before whole arrays are compared
_TRIED = 4  # whole comparisons for one value


@dataclass(frozen=True)
class Match:
    """The nearest array of the source.

    Attributes:
        index: its place in the sequence.
        error: max |value - array| / max |array|; infinite where one is no number and the other is.
    """

    index: int
    error: float


class References:
    """Arrays of the source, to be looked up by their numbers.

    Args:
        arrays: of any shapes and types.
        moved: also look for each array with its last axis moved to the second place.
    """

    def __init__(self, arrays: Sequence[np.ndarray], *, moved: bool = False) -> None:
        found: dict[tuple[str, int], list[tuple[int, np.ndarray]]] = {}
        for index, array in enumerate(arrays):
            for form in _forms(array) if moved else (array,):
                found.setdefault(_key(form), []).append((index, form.reshape(-1)))
        self._groups = {key: _Group(entries) for key, entries in found.items()}

    def nearest(self, value: np.ndarray) -> Match | None:
        """The array that is nearest in most of its elements; None where none has this number of elements."""
        group = self._groups.get(_key(value))
        return group.nearest(value.reshape(-1)) if group is not None and value.size else None


class _Group:
    """Arrays with the same number of elements."""

    def __init__(self, entries: Sequence[tuple[int, np.ndarray]]) -> None:
        self.entries = entries
        size = entries[0][1].size
        self.places = np.unique(np.linspace(0, max(size - 1, 0), _SAMPLES).astype(np.int64))
        self.samples = np.stack([_numbers(array[self.places]) for _, array in entries]) if size else None
        self.scales = np.array([max(_scale(array), 1e-30) for _, array in entries])

    def nearest(self, value: np.ndarray) -> Match:
        assert self.samples is not None
        far = np.abs(self.samples - _numbers(value[self.places])) / self.scales[:, None]
        # The median finds the counterpart of a value that is wrong in a few rows.
        typical, worst = np.median(far, axis=1), far.max(axis=1)
        order = np.lexsort((worst, typical))[:_TRIED]
        tried = [(relative_error(value, self.entries[place][1]), place) for place in order]
        error, place = min(tried, key=lambda pair: pair[0])
        if not np.isfinite(error) or error > typical[order[0]] * _SAMPLES + 1e-3:
            error, place = tried[0]
        return Match(self.entries[place][0], error)


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Max |value - reference| / max |reference| of arrays with the same number of elements."""
    one, other = _numbers(value.reshape(-1)), _numbers(reference.reshape(-1))
    far = float(np.abs(one - other).max(initial=0.0))
    scale = _scale(other)
    return far / scale if scale else far


def is_telling(value: np.ndarray) -> bool:
    """Whether an equal array elsewhere is hardly chance: some elements, and not all the same."""
    if value.size < 4:
        return False
    flat = value.reshape(-1)
    return bool((flat != flat[0]).any())


def _forms(array: np.ndarray) -> list[np.ndarray]:
    forms = [array]
    if array.ndim in (3, 4, 5) and 1 not in (array.shape[-1], array.shape[1]):
        forms.append(np.moveaxis(array, -1, 1))
    return forms


def _key(array: np.ndarray) -> tuple[str, int]:
    return ("float" if array.dtype.kind == "f" else "whole"), array.size


def _numbers(array: np.ndarray) -> np.ndarray:
    """In float64; the same large number for all that stand for "masked", and for what is no number."""
    numbers = array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.clip(np.nan_to_num(numbers, nan=2 * LARGEST), -LARGEST, 2 * LARGEST)


def _scale(array: np.ndarray) -> float:
    numbers = np.abs(_numbers(array))
    known = numbers[numbers < LARGEST]
    return float(known.max()) if known.size else 0.0
