"""Weights that are numpy arrays in memory; rearranging one gives a view, not a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


class ArrayWeight(ir.Tensor):  # type: ignore[misc]
    """A numpy array as a weight that `graph.weight_layout` can rearrange.

    Args:
        array: any strides; it is copied block by block while it is written.
        name: name of the weight.
    """

    def __init__(self, array: np.ndarray[Any, Any], name: str) -> None:
        super().__init__(array, name=name)
        self._array = array

    @property
    def origin(self) -> tuple[Any, ...]:
        """Equal for two views of the same memory with the same strides (see `graph.shared_weights`)."""
        return (self._array.__array_interface__["data"][0], self._array.strides)

    def permuted(self, axes: list[int], name: str) -> ir.TensorProtocol:
        """Return the weight with its axes in another order."""
        return ArrayWeight(self._array.transpose(axes), name)

    def sliced(self, axis: int, start: int, length: int, name: str) -> ir.TensorProtocol:
        """Return indices `start` to `start + length` of an axis."""
        index = [slice(None)] * self._array.ndim
        index[axis] = slice(start, start + length)
        return ArrayWeight(self._array[tuple(index)], name)

    def reshaped(self, shape: list[int], name: str) -> ir.TensorProtocol:
        """Return the weight in another shape."""
        return ArrayWeight(self._array.reshape(shape), name)
