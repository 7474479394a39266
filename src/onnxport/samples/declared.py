"""Inputs of a function that declares them: names, types, and axes that are fixed or free.

What the numbers mean is not declared. Masks are known by their names; how large an integer may be, which free
axes must be equal (`samples.tried`), and whether pixels are meant to reach 255 is found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from onnxport.samples.base import Arrays, Knob, Sizes, with_silence
from onnxport.samples.tried import MOST, Range, apart, integers_taken, own_name, together

# What the model makes of arrays; None where it refuses them.
Runs = Callable[[Arrays], Arrays | None]

_LENGTH = Knob("sequence_length", 11, (17, 29, 7))
_SIDE = Knob("", 64, (96, 72, 101, 160, 128, 224))
# Outputs that differ by less between two images, of their size, say nothing about what was computed in between.
_DULL = 1e-2
_WIDE = 3.0
_OTHER = Knob("", 24, (37, 48, 64, 101, 4096, 8192))


@dataclass(frozen=True)
class Declared:
    """One input.

    Attributes:
        name: of the input.
        dtype: numpy name of its type.
        axes: sizes; None is free.
    """

    name: str
    dtype: str
    axes: tuple[int | None, ...]

    @property
    def is_mask(self) -> bool:
        return "mask" in self.name.lower()


class DeclaredSampler:
    """Makes arrays for declared inputs.

    Args:
        inputs: in the order of the graph's inputs.
        knobs: name of the knob of each free axis, by input and axis.
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
        knobs: dict[tuple[str, int], str],
        limits: Mapping[str, Range] | None = None,
        pixels: frozenset[str] = frozenset(),
    ) -> None:
        self.inputs, self.places, self.limits, self.pixels = tuple(inputs), dict(knobs), dict(limits or {}), pixels
        self.knobs = tuple(_knob(name) for name in dict.fromkeys(knobs.values()))
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


def declared_sampler(inputs: Sequence[Declared], runs: Runs) -> DeclaredSampler:
    """The sampler of declared inputs; `runs` is the model."""
    limits = {spec.name: Range(0, 2) for spec in inputs}
    knobs = together(DeclaredSampler(inputs, _knob_names(inputs), limits), runs)
    sampler = DeclaredSampler(inputs, knobs, limits)
    for spec in inputs:
        if np.dtype(spec.dtype).kind in "iu" and not spec.is_mask:
            limits[spec.name] = integers_taken(sampler, spec, runs)
    knobs = apart(DeclaredSampler(inputs, knobs, limits), runs)
    sampler = DeclaredSampler(inputs, knobs, limits)
    return DeclaredSampler(inputs, knobs, limits, _pixels(sampler, runs))


def _knob_names(inputs: Sequence[Declared]) -> dict[tuple[str, int], str]:
    """A knob for each free axis; axes that usually belong together share one."""
    names = {}
    for spec in inputs:
        for axis, size in enumerate(spec.axes):
            if size is None:
                names[spec.name, axis] = _usual_name(spec, axis)
    return names


def _usual_name(spec: Declared, axis: int) -> str:
    if axis == 0:
        return "batch_size"
    if len(spec.axes) == 4:
        channels_last = spec.axes[1] is None or spec.axes[3] is not None
        sides = {1: "height", 2: "width"} if channels_last else {2: "height", 3: "width"}
        if axis in sides:
            return sides[axis]
    if axis == 1 and len(spec.axes) in (2, 3):
        return "sequence_length"
    return own_name(spec.name, f"dim_{axis}")


def _knob(name: str) -> Knob:
    if name.endswith("batch_size"):
        return Knob(name, 2, (3, 5))
    if name.endswith(("height", "width")):
        return replace(_SIDE, name=name)
    return replace(_LENGTH if name.endswith("sequence_length") else _OTHER, name=name)


def _pixels(sampler: DeclaredSampler, runs: Runs) -> frozenset[str]:
    """Images whose numbers the model divides by 255 itself: it sees next to nothing of smaller ones."""
    images = frozenset(spec.name for spec in sampler.inputs if len(spec.axes) == 4 and np.dtype(spec.dtype).kind == "f")
    if not images:
        return images
    bright = DeclaredSampler(sampler.inputs, sampler.places, sampler.limits, images)
    small, large = _sensitivity(sampler, runs), _sensitivity(bright, runs)
    return images if small < _DULL and large > 2 * small else frozenset()


def _sensitivity(sampler: DeclaredSampler, runs: Runs) -> float:
    """How much outputs differ between two samples, of their size; 0 where the model refuses them."""
    sizes = {knob.name: knob.base for knob in sampler.knobs}
    found = [runs(sampler.make(sizes, seed=seed)) for seed in (2, 4)]
    if found[0] is None or found[1] is None:
        return 0.0
    changes = []
    for name, first in found[0].items():
        if first.dtype.kind == "f" and np.isfinite(first).all():
            scale = float(np.abs(first).mean(dtype=np.float64))
            changes.append(float(np.abs(first - found[1][name]).mean(dtype=np.float64)) / scale if scale else 0.0)
    return max(changes, default=0.0)
