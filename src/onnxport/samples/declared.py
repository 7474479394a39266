"""Inputs of a function that declares them: names, types, and axes that are fixed or free.

What the numbers mean is not declared. Masks are known by their names; how large an integer may be and which
free axes must be equal is found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from onnxport.samples.base import Arrays, Knob, Sizes

Runs = Callable[[Arrays], bool]

# Larger than the vocabulary of most models; what takes any integer need not get larger ones.
_MOST = 2**17
_LENGTH = Knob("sequence_length", 11, (17, 29, 7))
_SIDE = Knob("", 64, (96, 72, 101, 160, 128, 224))
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
        highest: integers of an input are below this number.
    """

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(
        self, inputs: Sequence[Declared], knobs: dict[tuple[str, int], str], highest: dict[str, int] | None = None
    ) -> None:
        self.inputs, self.places, self.highest = tuple(inputs), dict(knobs), dict(highest or {})
        self.knobs = tuple(_knob(name) for name in dict.fromkeys(knobs.values()))
        self.can_pad = any(spec.is_mask and len(spec.axes) == 2 for spec in inputs)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        rng = np.random.default_rng([seed, *sizes.values()])
        return {spec.name: self._draw(spec, sizes, rng, padded) for spec in self.inputs}

    def _draw(self, spec: Declared, sizes: Sizes, rng: np.random.Generator, padded: bool) -> np.ndarray:
        shape = tuple(
            sizes[self.places[spec.name, axis]] if size is None else size for axis, size in enumerate(spec.axes)
        )
        dtype = np.dtype(spec.dtype)
        if spec.is_mask:
            mask = np.ones(shape, dtype)
            if padded and len(shape) == 2:
                mask[1:, max(1, shape[1] * 2 // 5) :] = 0
            return mask
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        if dtype.kind == "b":
            return rng.random(shape) < 0.5
        limit = min(self.highest.get(spec.name, _MOST), np.iinfo(dtype).max)
        return rng.integers(0, limit, shape).astype(dtype)


def declared_sampler(inputs: Sequence[Declared], runs: Runs) -> DeclaredSampler:
    """The sampler of declared inputs; `runs` tells whether the model takes what it is given."""
    knobs = _knob_names(inputs)
    highest = {spec.name: 2 for spec in inputs}
    sampler = DeclaredSampler(inputs, knobs, highest)
    for spec in inputs:
        if np.dtype(spec.dtype).kind in "iu" and not spec.is_mask:
            highest[spec.name] = _highest(sampler, spec, runs)
    sampler = DeclaredSampler(inputs, knobs, highest)
    return DeclaredSampler(inputs, _independent(sampler, runs), highest)


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
    return f"{spec.name}_dim_{axis}"


def _knob(name: str) -> Knob:
    if name == "batch_size":
        return Knob(name, 2, (3, 5))
    if name.endswith(("height", "width")):
        return replace(_SIDE, name=name)
    return replace(_LENGTH if name.endswith("sequence_length") else _OTHER, name=name)


def _highest(sampler: DeclaredSampler, spec: Declared, runs: Runs) -> int:
    """The largest power of two below which the model takes all integers of an input."""
    sizes = {knob.name: knob.base for knob in sampler.knobs}
    arrays = sampler.make(sizes)
    highest = 1
    while highest < min(_MOST, np.iinfo(spec.dtype).max):
        if not runs({**arrays, spec.name: np.full_like(arrays[spec.name], 2 * highest - 1)}):
            break
        highest *= 2
    return highest


def _independent(sampler: DeclaredSampler, runs: Runs) -> dict[tuple[str, int], str]:
    """Knobs of a free axis of its own, where the model takes another size in one input alone."""
    base = {knob.name: knob.base for knob in sampler.knobs}
    names = dict(sampler.places)
    for knob in sampler.knobs:
        places = [place for place, name in sampler.places.items() if name == knob.name]
        if len(places) < 2 or knob.name == "batch_size":
            continue
        for input_name in dict.fromkeys(name for name, _ in places):
            other = sampler.make({**base, knob.name: knob.others[0]})[input_name]
            if runs({**sampler.make(base), input_name: other}):
                names |= {place: f"{input_name}_{knob.name}" for place in places if place[0] == input_name}
    return names
