"""Inputs of a function that declares names, types, and static or dynamic axes.

The meaning of the values is not declared. Masks are recognized by their names. The allowed integers, the dynamic axes
that must be equal, and whether pixels range to 255 are found by running the model (`input_ranges`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes, zero_row_ends
from onnxport.sources.base import Declared

# Runs the model; returns None if it fails.
RunModel = Callable[[Arrays], Arrays | None]

# Larger than the vocabulary of most models; inputs that accept any integer need no larger ones.
INTEGER_LIMIT = 2**17


@dataclass(frozen=True)
class IntegerRange:
    """Integers from `lowest` to `highest - 1`.

    Attributes:
        lowest: 0, or a negative number.
        highest: upper limit, not included.
        zero: whether 0 is allowed; it is not for divisors.
    """

    lowest: int = 0
    highest: int = INTEGER_LIMIT
    zero: bool = True


_LENGTH = DynamicDim("sequence_length", 11, (17, 29, 7))
_IMAGE_SIDE = DynamicDim("", 64, (96, 72, 101, 160, 128, 224))
_WIDE_SPREAD = 3.0
_OTHER_AXIS = DynamicDim("", 24, (37, 48, 64, 101, 4096, 8192))


class DeclaredInputGenerator:
    """Makes arrays for declared inputs.

    Args:
        inputs: in the order of the graph's inputs.
        dim_names: (input, axis) -> name of the dimension, for each dynamic axis.
        limits: input -> allowed integers; no negative ones for an even seed.
        pixels: inputs with values from 0 to 255; other float inputs are drawn from a normal distribution.
    """

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}
    description: ClassVar[str] = "inputs of its declared shapes and types"
    hint: ClassVar[str] = (
        "For a Keras model, pass sample inputs in Python: convert(None, model, output, sample_inputs={...}). For a "
        "SavedModel, save it with the sizes that its inputs need."
    )

    def __init__(
        self,
        inputs: Sequence[Declared],
        dim_names: dict[tuple[str, int], str],
        limits: Mapping[str, IntegerRange] | None = None,
        pixels: frozenset[str] = frozenset(),
    ) -> None:
        self.inputs, self.dim_names, self.limits, self.pixels = (
            tuple(inputs),
            dict(dim_names),
            dict(limits or {}),
            pixels,
        )
        self.dims = tuple(_dim(name) for name in dict.fromkeys(dim_names.values()))
        self.can_pad = any(spec.is_mask and len(spec.axes) == 2 for spec in inputs)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        rng = np.random.default_rng([seed, *sizes.values()])
        return {spec.name: self._draw(spec, sizes, rng, padded, seed) for spec in self.inputs}

    def _draw(self, spec: Declared, sizes: Sizes, rng: np.random.Generator, padded: bool, seed: int) -> np.ndarray:
        shape = tuple(
            sizes[self.dim_names[spec.name, axis]] if size is None else size for axis, size in enumerate(spec.axes)
        )
        dtype = np.dtype(spec.dtype)
        if spec.is_mask:
            return _mask(shape, dtype, rng, padded, seed)
        if spec.name in self.pixels:
            return zero_row_ends(rng.uniform(0, 255, shape).astype(dtype), seed)
        if dtype.kind == "f":
            spread = _WIDE_SPREAD if seed % 4 == 1 else 1.0  # shows clipping at 6, for example in ReLU6
            return zero_row_ends((spread * rng.standard_normal(shape)).astype(dtype), seed)
        if dtype.kind == "b":
            return rng.random(shape) < 0.5
        allowed = self.limits.get(spec.name, IntegerRange())
        allowed = replace(
            allowed, highest=min(allowed.highest, np.iinfo(dtype).max), lowest=allowed.lowest if seed % 2 else 0
        )
        return _random_integers(rng, allowed, shape).astype(dtype)


def _mask(
    shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator, padded: bool, seed: int
) -> np.ndarray:
    """Return ones; padded rows end in zeros, and masks over pairs of positions (any other rank) get random zeros."""
    mask = np.ones(shape, dtype)
    if padded and len(shape) == 2:
        mask[1:, max(1, shape[1] * 2 // 5) :] = 0
    elif len(shape) > 2 and seed % 2:
        mask[rng.random(shape) < 0.3] = 0
        mask[..., 0] = 1  # at least one entry stays visible
    return mask


def _random_integers(rng: np.random.Generator, allowed: IntegerRange, shape: tuple[int, ...]) -> np.ndarray:
    """Return integers, half of them negative if allowed. In a wide range, small ones are as likely as large ones."""
    if allowed.highest >= INTEGER_LIMIT:
        numbers = (2 ** rng.uniform(0, np.log2(allowed.highest), shape)).astype(np.int64) - 1
    else:
        numbers = rng.integers(0, allowed.highest, shape)
    if allowed.lowest < 0:
        numbers = np.where(rng.random(shape) < 0.5, -1 - numbers % -allowed.lowest, numbers)
    return numbers if allowed.zero else np.where(numbers == 0, 1, numbers)


def _dim(name: str) -> DynamicDim:
    if name.endswith("batch_size"):
        return DynamicDim(name, 2, (3, 5))
    if name.endswith(("height", "width")):
        return replace(_IMAGE_SIDE, name=name)
    return replace(_LENGTH if name.endswith("sequence_length") else _OTHER_AXIS, name=name)
