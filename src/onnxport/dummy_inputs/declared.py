"""Inputs of a function that declares them: names, types, and axes that are fixed or free.

What the numbers mean is not declared. Masks are known by their names; how large an integer may be, which free
axes must be equal (`samples.tried`), and whether pixels are meant to reach 255 is found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes, with_silence
from onnxport.sources.base import Declared

if TYPE_CHECKING:
    from onnxport.sources.base import Declared

# What the model makes of arrays; None where it refuses them.
Runs = Callable[[Arrays], Arrays | None]

_LENGTH = DynamicDim("sequence_length", 11, (17, 29, 7))
_SIDE = DynamicDim("", 64, (96, 72, 101, 160, 128, 224))
_WIDE = 3.0
_OTHER = DynamicDim("", 24, (37, 48, 64, 101, 4096, 8192))


class DeclaredInputGenerator:
    """Makes arrays for declared inputs.

    Args:
        inputs: in the order of the graph's inputs.
        dims: name of the knob of each free axis, by input and axis.
        limits: integers of an input; no negative ones in samples of an even seed.
        pixels: inputs that get numbers from 0 to 255; other inputs of floats are drawn from a normal distribution.
    """

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}
    made: ClassVar[str] = "inputs of the shapes and types that it declares"
    advice: ClassVar[str] = (
        "Give a Keras model examples in Python: convert(None, model, output, sample_inputs={...}); save a SavedModel "
        "with the sizes that its inputs need."
    )

    def __init__(
        self,
        inputs: Sequence[Declared],
        dims: dict[tuple[str, int], str],
        limits: Mapping[str, Range] | None = None,
        pixels: frozenset[str] = frozenset(),
    ) -> None:
        self.inputs, self.places, self.limits, self.pixels = tuple(inputs), dict(dims), dict(limits or {}), pixels
        self.dims = tuple(_dim(name) for name in dict.fromkeys(dims.values()))
        self.can_pad = any(spec.is_mask and len(spec.axes) == 2 for spec in inputs)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        rng = np.random.default_rng([seed, *sizes.values()])
        return {spec.name: self._draw(spec, sizes, rng, padded, seed) for spec in self.inputs}

    def _draw(self, spec: Declared, sizes: Sizes, rng: np.random.Generator, padded: bool, seed: int) -> np.ndarray:
        shape = tuple(
            sizes[self.places[spec.name, axis]] if size is None else size for axis, size in enumerate(spec.axes)
        )
        dtype = np.dtype(spec.dtype)
        if spec.is_mask:
            return _mask(shape, dtype, rng, padded, seed)
        if spec.name in self.pixels:
            return with_silence(rng.uniform(0, 255, shape).astype(dtype), seed)
        if dtype.kind == "f":
            spread = _WIDE if seed % 4 == 1 else 1.0  # what is cut at 6 shows nowhere else
            return with_silence((spread * rng.standard_normal(shape)).astype(dtype), seed)
        if dtype.kind == "b":
            return rng.random(shape) < 0.5
        taken = self.limits.get(spec.name, Range())
        taken = replace(taken, highest=min(taken.highest, np.iinfo(dtype).max), lowest=taken.lowest if seed % 2 else 0)
        return _integers(rng, taken, shape).astype(dtype)


def _mask(
    shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator, padded: bool, seed: int
) -> np.ndarray:
    """Ones; rows are padded where that is asked for, and of pairs of positions (any other rank) some are left out."""
    mask = np.ones(shape, dtype)
    if padded and len(shape) == 2:
        mask[1:, max(1, shape[1] * 2 // 5) :] = 0
    elif len(shape) > 2 and seed % 2:
        mask[rng.random(shape) < 0.3] = 0
        mask[..., 0] = 1  # something is left to look at
    return mask


def _integers(rng: np.random.Generator, taken: Range, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers, half of them negative if they may be. Of a wide range small ones are as likely as large ones."""
    if taken.highest >= MOST:
        numbers = (2 ** rng.uniform(0, np.log2(taken.highest), shape)).astype(np.int64) - 1
    else:
        numbers = rng.integers(0, taken.highest, shape)
    if taken.lowest < 0:
        numbers = np.where(rng.random(shape) < 0.5, -1 - numbers % -taken.lowest, numbers)
    return numbers if taken.zero else np.where(numbers == 0, 1, numbers)


def _dim(name: str) -> DynamicDim:
    if name.endswith("batch_size"):
        return DynamicDim(name, 2, (3, 5))
    if name.endswith(("height", "width")):
        return replace(_SIDE, name=name)
    return replace(_LENGTH if name.endswith("sequence_length") else _OTHER, name=name)


# Larger than the vocabulary of most models; what takes any integer need not get larger ones.
MOST = 2**17


@dataclass(frozen=True)
class Range:
    """Integers from `lowest` on, and below `highest`; `zero`: whether 0 is one of them (no divisor is)."""

    lowest: int = 0
    highest: int = MOST
    zero: bool = True
