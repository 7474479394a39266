"""What a sampler is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

Arrays = dict[str, np.ndarray]
Sizes = dict[str, int]


@dataclass(frozen=True)
class DynamicDim:
    """One size that a user can vary.

    Attributes:
        name: also the name of the axis that moves one to one with it: "batch_size".
        base: size of the first probe.
        others: sizes to try, best first; the first two that work are used.
        maximum: largest size that the tokenizer or configuration allows, or None.
        frames: name of an axis that moves with the knob, but not one to one ("num_frames").
        frames_axis: which axis of the first input that is.
        edges: sizes that exporters like to get wrong; every verification has them.
        why_fixed: why there are no others, where there are none.
    """

    name: str
    base: int
    others: tuple[int, ...]
    maximum: int | None = None
    frames: str | None = None
    frames_axis: int = 1
    edges: tuple[int, ...] = ()
    why_fixed: str = ""

    def clipped(self) -> DynamicDim:
        """The same knob without sizes above its maximum."""
        if self.maximum is None:
            return self
        others = tuple(size for size in self.others if size <= self.maximum and size != min(self.base, self.maximum))
        return replace(self, base=min(self.base, self.maximum), others=others)

    def in_multiples(self, multiple: int) -> DynamicDim:
        """The same knob with sizes that are multiples only."""
        base = -(-self.base // multiple) * multiple
        others = [-(-size // multiple) * multiple for size in (*self.others, base + multiple, base + 2 * multiple)]
        kept = tuple(size for size in dict.fromkeys(others) if size != base)
        return replace(self, base=base, others=kept)


class InputGenerator(Protocol):
    """Makes model inputs."""

    dims: tuple[DynamicDim, ...]
    can_pad: bool  # rows of different length are possible

    @property
    def joint_axes(self) -> dict[tuple[str, int], str]:
        """Names of axes that move with several knobs, by tensor and axis."""
        ...

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Inputs by name, in the order of the tokenizer or processor.

        Args:
            sizes: one entry a knob.
            seed: other content for another seed; the same seed gives the same content.
            padded: rows after the first are shorter and padded, where the model has masks.
        """
        ...


def base_sizes(generator: InputGenerator) -> Sizes:
    return {dim.name: dim.base for dim in generator.dims}


def as_arrays(encoded: Mapping[str, Any], accepts: frozenset[str] | None) -> Arrays:
    """What a processor gave, as float32 and int64 arrays, less what the model's forward does not take."""
    arrays: Arrays = {}
    for name, value in encoded.items():
        if accepts is None or name in accepts:
            array = np.asarray(value)
            arrays[name] = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return arrays


def with_silence(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Every third row ends in zeros, in place: what keeps a logarithm or a quotient finite shows nowhere else."""
    for row in range(numbers.shape[0]) if numbers.ndim > 1 else ():
        if (row + seed) % 3 == 2:
            numbers[row, (numbers.shape[1] + 1) // 2 :] = 0
    return numbers


class RestrictedInputGenerator:
    """A sampler whose knobs obey restrictions that are known already.

    Args:
        generator: the free one.
        multiples: per knob the number that its sizes must be a multiple of.
        tied: per knob the other knob that it equals; it is no knob of its own then.
    """

    def __init__(self, generator: InputGenerator, multiples: dict[str, int], tied: dict[str, str]) -> None:
        self.generator, self.tied = generator, tied
        self.can_pad, self.joint_axes = generator.can_pad, generator.joint_axes
        self.dims = tuple(
            dim.in_multiples(multiples[dim.name]) if multiples.get(dim.name, 1) > 1 else dim
            for dim in generator.dims
            if dim.name not in tied
        )

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        tied = {name: sizes[other] for name, other in self.tied.items()}
        return self.generator.make({**sizes, **tied}, seed=seed, padded=padded)


def unrestricted(generator: InputGenerator) -> InputGenerator:
    """The sampler without what was learned about the model since."""
    return generator.generator if isinstance(generator, RestrictedInputGenerator) else generator
