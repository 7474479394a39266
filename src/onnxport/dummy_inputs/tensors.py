"""Inputs of a plain module: its sample inputs, resized along dynamic axes.

The sample inputs are all that is known about such a model. Axes of equal length belong to one dimension: axis 0 of all
inputs is `batch_size`, and each other group of axes with the same length is one dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import (
    Arrays,
    DynamicDim,
    Sizes,
    zero_row_ends,
)
from onnxport.errors import ExportError


class TensorInputGenerator:
    """Draws new values from the distribution of `sample`, at other sizes.

    Args:
        sample: arrays by input name, in the order of the graph's inputs.
    """

    can_pad = False
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, sample: Arrays) -> None:
        self.sample = sample
        self.axes_by_dim: dict[str, list[tuple[str, int]]] = {}
        firsts = {value.shape[0] for value in sample.values() if value.ndim}
        self._batched = len(firsts) == 1
        names: dict[int, str] = {}
        for name, value in sample.items():
            for axis, size in enumerate(value.shape):
                shared = "batch_size" if axis == 0 and self._batched else None
                dim = shared or names.setdefault(size, f"{name.replace('.', '_')}_dim_{axis}")
                self.axes_by_dim.setdefault(dim, []).append((name, axis))
        self.dims = tuple(self._dim(name, axes) for name, axes in self.axes_by_dim.items())

    def _dim(self, name: str, axes: list[tuple[str, int]]) -> DynamicDim:
        first, axis = axes[0]
        size = self.sample[first].shape[axis]
        others = (size + 1, size + 2) if name == "batch_size" else (size + 3, size * 2, size + 8, size + 32)
        return DynamicDim(name, size, tuple(dict.fromkeys(others)))

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        if seed == 0 and all(sizes[k.name] == k.base_size for k in self.dims):
            return dict(self.sample)
        rng = np.random.default_rng([seed, *sizes.values()])
        return {name: self._draw(name, value, sizes, rng, seed) for name, value in self.sample.items()}

    def _draw(self, name: str, value: np.ndarray, sizes: Sizes, rng: np.random.Generator, seed: int) -> np.ndarray:
        shape = list(value.shape)
        for dim, axes in self.axes_by_dim.items():
            for input_name, axis in axes:
                if input_name == name:
                    shape[axis] = sizes[dim]
        if value.dtype.kind == "f":
            spread = float(value.std()) or 1.0
            values = (rng.standard_normal(shape) * spread + float(value.mean())).astype(value.dtype)
            return zero_row_ends(values, seed)
        if value.dtype.kind == "b":
            return rng.random(shape) < 0.5
        return rng.integers(value.min(), value.max() + 1, shape).astype(value.dtype)


def as_sample(inputs: Mapping[str, Any]) -> Arrays:
    """Return sample inputs of a live module as numpy arrays; those in lists, tuples and dicts by a name of their own.

    Python numbers, texts and None are no inputs of a graph: they are constants in it.

    Args:
        inputs: tensors, arrays or containers of them, by name.

    Raises:
        ExportError: an input holds something else, or no tensor is in any.

    Example:
        >>> list(as_sample({"levels": [np.ones(2), np.ones(3)], "extra": {"left": np.ones(1)}, "scale": 2.0}))
        ['levels.0', 'levels.1', 'extra.left']
    """
    arrays: Arrays = {}
    for name, value in inputs.items():
        for leaf, found in _leaves(value, name):
            arrays[leaf] = found.detach().cpu().numpy() if hasattr(found, "detach") else np.asarray(found)
            if arrays[leaf].dtype == object:
                raise ExportError(
                    f"Sample input {leaf!r} is a {type(found).__name__}, not a tensor.",
                    hint="Pass tensors or numpy arrays, also in lists, tuples and dicts: sample_inputs={...}.",
                )
    if not arrays:
        raise ExportError(
            "The sample inputs hold no tensor, so the graph would have no input.",
            hint="Pass tensors or numpy arrays: sample_inputs={...}.",
        )
    return arrays


def rebuilt(value: Any, name: str, tensors: Mapping[str, Any]) -> Any:
    """Return an input as the module takes it, with `tensors` in the places of its leaves.

    Args:
        value: the sample input, with its containers and constants.
        name: its name.
        tensors: by the names of `as_sample`.

    Example:
        >>> rebuilt({"left": None, "right": 1}, "extra", {"extra.left": 7})
        {'left': 7, 'right': 1}
    """
    if name in tensors:
        return tensors[name]
    if isinstance(value, Mapping):
        return {key: rebuilt(one, f"{name}.{key}", tensors) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [rebuilt(one, f"{name}.{index}", tensors) for index, one in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def is_constant(value: Any) -> bool:
    """Return whether a sample input is no tensor: a Python number, a text or None."""
    return value is None or isinstance(value, (bool, int, float, str))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _leaves(one, f"{name}.{key}")
    elif isinstance(value, (tuple, list)):
        for index, one in enumerate(value):
            yield from _leaves(one, f"{name}.{index}")
    elif not is_constant(value):
        yield name, value
