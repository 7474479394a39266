"""The interface of input generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

Arrays = dict[str, np.ndarray]
Sizes = dict[str, int]


@dataclass(frozen=True)
class DynamicDim:
    """A size that can vary.

    Attributes:
        name: name of the dimension, and of input axes of the same size: "batch_size".
        base_size: size of the first probe.
        probe_sizes: other sizes to probe, in order; the first two that work are used.
        maximum: largest size that the tokenizer or configuration allows, or None.
        derived_axis: name of an input axis that depends on this size, but is not equal to it: "num_frames".
        derived_axis_index: index of that axis in the first input.
        edge_sizes: sizes at which exporters often fail; every verification includes them.
        why_static: reason for empty `probe_sizes`.
    """

    name: str
    base_size: int
    probe_sizes: tuple[int, ...]
    maximum: int | None = None
    derived_axis: str | None = None
    derived_axis_index: int = 1
    edge_sizes: tuple[int, ...] = ()
    why_static: str = ""

    def clipped(self) -> DynamicDim:
        """Return the dimension without sizes above its maximum."""
        if self.maximum is None:
            return self
        base = min(self.base_size, self.maximum)
        others = tuple(size for size in self.probe_sizes if size <= self.maximum and size != base)
        return replace(self, base_size=base, probe_sizes=others)

    def in_multiples(self, multiple: int) -> DynamicDim:
        """Return the dimension with sizes rounded up to multiples.

        Args:
            multiple: the number.
        """
        base = -(-self.base_size // multiple) * multiple
        others = [-(-size // multiple) * multiple for size in (*self.probe_sizes, base + multiple, base + 2 * multiple)]
        kept = tuple(size for size in dict.fromkeys(others) if size != base)
        return replace(self, base_size=base, probe_sizes=kept)


class InputGenerator(Protocol):
    """Makes the inputs of a model.

    Attributes:
        dims: the sizes that can vary.
        can_pad: whether rows of different lengths are possible.
    """

    dims: tuple[DynamicDim, ...]
    can_pad: bool

    @property
    def joint_axes(self) -> dict[tuple[str, int], str]:
        """Names of axes that depend on several dimensions, by (input name, axis index)."""
        ...

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name, in the order of the tokenizer or processor.

        Args:
            sizes: a size for each dimension.
            seed: seed of the content.
            padded: make rows after the first shorter and pad them, if the model has masks.
        """
        ...


def base_sizes(generator: InputGenerator) -> Sizes:
    """Return the base size of each dimension.

    Args:
        generator: an input generator.
    """
    return {dim.name: dim.base_size for dim in generator.dims}


def as_arrays(encoded: Mapping[str, Any], accepts: frozenset[str] | None) -> Arrays:
    """Return the outputs of a processor as float32 and int64 arrays, without those that the model does not take.

    Args:
        encoded: the outputs of a processor.
        accepts: parameter names of the model's forward, or None for all.
    """
    arrays: Arrays = {}
    for name, value in encoded.items():
        if accepts is None or name in accepts:
            array = np.asarray(value)
            arrays[name] = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return arrays


def zero_row_ends(values: np.ndarray, seed: int) -> np.ndarray:
    """Zero the second half of every third row, in place, so that log(0) and division by zero are tested.

    Args:
        values: (rows, samples, ...).
        seed: shifts which rows are zeroed.

    Returns:
        `values`.
    """
    for row in range(values.shape[0]) if values.ndim > 1 else ():
        if (row + seed) % 3 == 2:
            values[row, (values.shape[1] + 1) // 2 :] = 0
    return values


class RestrictedInputGenerator:
    """An input generator that obeys restrictions.

    Args:
        generator: a generator without restrictions.
        multiples: dimension -> number that its sizes must be a multiple of.
        tied: dimension -> other dimension that it equals; it is no separate dimension then.
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
        """Return inputs by name; see `InputGenerator.make`."""
        tied = {name: sizes[other] for name, other in self.tied.items()}
        return self.generator.make({**sizes, **tied}, seed=seed, padded=padded)


def unrestricted(generator: InputGenerator) -> InputGenerator:
    """Return the generator without restrictions.

    Args:
        generator: an input generator.
    """
    return generator.generator if isinstance(generator, RestrictedInputGenerator) else generator
