"""Find a weight among others by its values: as it is, in another order, packed, or scaled by channel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_MOST_AXES = 5  # of a weight whose axes are tried in every order
_SAMPLE = 64
_RELATIVE = 1e-5  # of a weight that was scaled by channel in float32


@dataclass(frozen=True)
class Named:
    """A weight that another may have been made of.

    Attributes:
        name: its name.
        array: its values; may be mapped from a file.
    """

    name: str
    array: Array


def equal(one: Array, other: Array) -> bool:
    """Whether two arrays have the same shape, type and bytes; a sample is compared first."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not one.ndim:
        return one.tobytes() == other.tobytes()
    if one[:1].reshape(-1)[:_SAMPLE].tobytes() != other[:1].reshape(-1)[:_SAMPLE].tobytes():
        return False
    step = max(1, 2**21 // max(1, one[:1].size))
    return all(one[at : at + step].tobytes() == other[at : at + step].tobytes() for at in range(0, len(one), step))


def transform_between(found: Array, base: Array) -> str | None:
    """What makes `found` of `base`, in words: another order of axes, then another shape; None where nothing does."""
    if found.dtype != base.dtype or found.size != base.size:
        return None
    if found.shape == base.shape and equal(found, base):
        return "as is"
    orders = permutations(range(base.ndim)) if base.ndim <= _MOST_AXES else iter([tuple(range(base.ndim))])
    sample = _first(found)
    for order in orders:
        moved = base.transpose(order)
        if _first(moved) != sample or not equal(found, moved.reshape(found.shape)):
            continue
        words = [] if order == tuple(range(base.ndim)) else [" ".join(("transposed", *map(str, order)))]
        words += [] if moved.shape == found.shape else [" ".join(("reshaped", *map(str, found.shape)))]
        return " and ".join(words)
    return None


def _first(array: Array) -> bytes:
    """The first elements in C order, without copying the rest."""
    places = np.unravel_index(np.arange(min(_SAMPLE, array.size)), array.shape) if array.ndim else ()
    return array[places].tobytes()


def packed_pieces(whole: Array, known: Sequence[Named]) -> tuple[int, list[str]] | None:
    """(axis, names) of the weights that lie side by side in `whole`; None where it is not made of them."""
    for axis in dict.fromkeys((whole.ndim - 1, 0)):
        names = list(_pieces(np.moveaxis(whole, axis, -1), known, axis))
        if names:
            return axis, names
    return None


def _pieces(whole: Array, known: Sequence[Named], axis: int) -> Iterator[str]:
    found: list[str] = []
    position = 0
    while position < whole.shape[-1]:
        for other in known:
            if other.array.dtype != whole.dtype or other.array.ndim != whole.ndim or other.array.size < 2:
                continue
            piece = np.moveaxis(other.array, axis, -1)
            width = piece.shape[-1]
            if piece.shape[:-1] != whole.shape[:-1] or position + width > whole.shape[-1]:
                continue
            if equal(whole[..., position : position + width], piece):
                found.append(other.name)
                position += width
                break
        else:
            return
    yield from found


def is_power_of_two(array: Array) -> bool:
    """Whether every number is a power of two."""
    return array.dtype.kind == "f" and bool((np.frexp(array)[0] == 0.5).all())


def scaled_by_channel(found: Array, base: Array) -> bool:
    """Whether `found` is `base` with one factor for each index of one axis, up to rounding."""
    if base.shape != found.shape or base.ndim < 2 or base.dtype.kind != "f" or found.dtype != base.dtype:
        return False
    for axis in range(base.ndim):
        ours, theirs = (np.moveaxis(one, axis, 0).reshape(one.shape[axis], -1) for one in (found, base))
        largest = np.abs(theirs).argmax(1)
        rows = np.arange(len(theirs))
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = ours[rows, largest] / theirs[rows, largest]
        if theirs.shape[1] < 2 or not np.isfinite(factors).all():
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            near = np.abs(ours - theirs * factors[:, None]) <= _RELATIVE * np.abs(ours).max(1, keepdims=True)
        if near.all():
            return True
    return False


def weight_normed(found: Array, known: Sequence[Named]) -> list[str] | None:
    """Names of the direction v and the lengths g that `found` was computed of: v * g / |v| along one axis.

    Its axes may stand in another order, and axes of one element may be left out or put in.
    """
    ours = found.squeeze()
    if found.dtype.kind != "f" or not 2 <= ours.ndim <= _MOST_AXES:
        return None
    for one in known:
        base = one.array.squeeze()
        if one.array.dtype.kind != "f" or sorted(base.shape) != sorted(ours.shape):
            continue
        for order in permutations(range(base.ndim)):
            moved = base.transpose(order)
            if moved.shape != ours.shape:
                continue
            length = _lengths_of(ours, moved, [other for other in known if other is not one])
            if length is not None:
                return [one.name, length]
    return None


def _lengths_of(found: Array, direction: Array, known: Sequence[Named]) -> str | None:
    """Name of the lengths that `found` has, which has the directions of `direction`, along one of its axes."""
    for axis in range(found.ndim):
        ours, theirs = (np.moveaxis(one, axis, 0).reshape(one.shape[axis], -1) for one in (found, direction))
        for other in known:
            if other.array.size != len(theirs) or other.array.dtype.kind != "f":
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                factors = other.array.reshape(-1).astype(np.float64) / np.linalg.norm(theirs.astype(np.float64), axis=1)
            limit = _RELATIVE * np.abs(ours).max(1, keepdims=True)
            if np.isfinite(factors).all() and (np.abs(ours - theirs * factors[:, None]) <= limit).all():
                return other.name
    return None


def rows_of(found: Array, known: Sequence[Named]) -> list[str] | None:
    """Names of the weights whose rows or columns are the rows of `found`, in another order; None where they are not.

    A recurrent layer's gates are stored in another order, and side by side.
    """
    flat = found.reshape([size for size in found.shape if size > 1] or [1])
    if flat.ndim > 2:
        return None
    width = flat.shape[-1]
    if flat.ndim == 1:
        return _parts_of(flat, known)
    wanted = {_digest(row) for row in flat}
    names: list[str] = []
    left = set(wanted)
    for other in known:
        if other.array.dtype != found.dtype or other.array.ndim != 2:
            continue
        for matrix in (other.array, other.array.T):
            if matrix.shape[1] == width and left & (rows := {_digest(row) for row in matrix}):
                names.append(other.name)
                left -= rows
    return names if not left else None


def _parts_of(flat: Array, known: Sequence[Named]) -> list[str] | None:
    """The same for numbers in one row: equal parts of it are parts of the weights."""
    names = [
        other.name
        for other in known
        if other.array.dtype == flat.dtype and other.array.ndim <= 2 and 1 < other.array.size <= flat.size
        and set(other.array.reshape(-1).tolist()) <= set(flat.tolist())
    ]  # fmt: skip
    held = {value for other in known if other.name in names for value in other.array.reshape(-1).tolist()}
    return names if names and set(flat.tolist()) <= held | {0.0} else None


def _digest(row: Array) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest()
