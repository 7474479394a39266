"""A plain module's own sample inputs, stretched along the axes that can move.

Nothing is known about such a model but one sample. Axes of equal length at the same place
are taken for one size: axis 0 of all inputs is `batch_size`, every other group of equal
lengths is one knob.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import (
    Arrays,
    DynamicDim,
    Sizes,
    with_silence,
)
from onnxport.errors import ExportError


class TensorInputGenerator:
    """Repeats or cuts `sample` along its axes, and draws new values of the same distribution.

    Args:
        sample: arrays by input name, in the order of the graph's inputs.
    """

    can_pad = False
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, sample: Arrays) -> None:
        self.sample = sample
        self.groups: dict[str, list[tuple[str, int]]] = {}
        firsts = {value.shape[0] for value in sample.values() if value.ndim}
        self._batched = len(firsts) == 1
        names: dict[int, str] = {}
        for name, value in sample.items():
            for axis, size in enumerate(value.shape):
                shared = "batch_size" if axis == 0 and self._batched else None
                dim = shared or names.setdefault(size, f"{name}_dim_{axis}")
                self.groups.setdefault(dim, []).append((name, axis))
        self.dims = tuple(self._dim(name, places) for name, places in self.groups.items())

    def _dim(self, name: str, places: list[tuple[str, int]]) -> DynamicDim:
        first, axis = places[0]
        size = self.sample[first].shape[axis]
        others = (size + 1, size + 2) if name == "batch_size" else (size + 3, size * 2, size + 8, size + 32)
        return DynamicDim(name, size, tuple(dict.fromkeys(others)))

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        if seed == 0 and all(sizes[k.name] == k.base for k in self.dims):
            return dict(self.sample)
        rng = np.random.default_rng([seed, *sizes.values()])
        return {name: self._draw(name, value, sizes, rng, seed) for name, value in self.sample.items()}

    def _draw(self, name: str, value: np.ndarray, sizes: Sizes, rng: np.random.Generator, seed: int) -> np.ndarray:
        shape = list(value.shape)
        for dim, places in self.groups.items():
            for place, axis in places:
                if place == name:
                    shape[axis] = sizes[dim]
        if value.dtype.kind == "f":
            spread = float(value.std()) or 1.0
            numbers = (rng.standard_normal(shape) * spread + float(value.mean())).astype(value.dtype)
            return with_silence(numbers, seed)
        if value.dtype.kind == "b":
            return rng.random(shape) < 0.5
        return rng.integers(value.min(), value.max() + 1, shape).astype(value.dtype)


def as_sample(inputs: dict[str, Any]) -> Arrays:
    """Sample inputs of a live module as numpy arrays.

    Raises:
        ExportError: an input is not a tensor or array.
    """
    arrays: Arrays = {}
    for name, value in inputs.items():
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        if array.dtype == object:
            raise ExportError(f"Sample input {name!r} is a {type(value).__name__}, not a tensor.")
        arrays[name] = array
    return arrays
