"""Maps of numbers at another size, as torch's `interpolate` with `align_corners=False` and without antialiasing.

Used on outputs: logits, masks and depths at the size of the image. Source: `UpSampleKernel.cpp` of PyTorch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_CUBIC = -0.75  # torch's coefficient


def interpolate(maps: Floats, size: tuple[int, int], mode: str) -> Floats:
    """Maps at another size.

    Args:
        maps: (..., height, width), float32.
        size: the new height and width.
        mode: "bilinear", "bicubic" or "nearest".
    """
    taps = {"bilinear": _linear, "bicubic": _cubic, "nearest": _nearest}[mode]
    made = np.asarray(maps, np.float32)
    made = _along(made, -1, *taps(made.shape[-1], size[1]))
    return _along(made, -2, *taps(made.shape[-2], size[0]))


def _along(maps: Floats, axis: int, places: NDArray[np.int64], weights: Floats) -> Floats:
    """The weighted sum of the values at `places` along an axis; both are (taps, new size)."""
    shape = (-1, 1) if axis == -2 else (-1,)
    terms = [np.take(maps, place, axis) * weight.reshape(shape) for place, weight in zip(places, weights, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return np.asarray(total, np.float32)


def _sources(old: int, new: int) -> NDArray[np.float64]:
    """The place of every new sample among the old ones, as float32 numbers: torch multiplies and adds in one step."""
    scale = np.float64(np.float32(old) / np.float32(new))
    return (scale * (np.arange(new) + 0.5) - 0.5).astype(np.float32).astype(np.float64)


def _linear(old: int, new: int) -> tuple[NDArray[np.int64], Floats]:
    source = np.maximum(_sources(old, new), 0.0)
    first = np.minimum(source.astype(np.int64), old - 1)
    share = np.clip(source - first, 0, 1)
    return np.stack([first, np.minimum(first + 1, old - 1)]), np.stack([1 - share, share]).astype(np.float32)


def _cubic(old: int, new: int) -> tuple[NDArray[np.int64], Floats]:
    source = _sources(old, new)
    first = np.floor(source).astype(np.int64)
    share = source - first
    places = np.stack([np.clip(first + step, 0, old - 1) for step in (-1, 0, 1, 2)])
    weights = np.stack([_far(share + 1), _near(share), _near(1 - share), _far(2 - share)])
    return places, weights.astype(np.float32)


def _near(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1


def _far(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC


def _nearest(old: int, new: int) -> tuple[NDArray[np.int64], Floats]:
    scale = np.float32(old) / np.float32(new)
    place = np.minimum(np.floor(np.arange(new, dtype=np.float32) * scale).astype(np.int64), old - 1)
    return place[None], np.ones((1, new), np.float32)
