"""A weight that is in memory already: moving its numbers gives a view, not a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


class HeldWeight(ir.Tensor):
    """An array as a weight that `graph.weight_layout` can move.

    Args:
        array: of any layout; it is copied in blocks when it is written.
        name: of the weight.
    """

    def __init__(self, array: np.ndarray[Any, Any], name: str) -> None:
        super().__init__(array, name=name)
        self._array = array

    @property
    def origin(self) -> tuple[Any, ...]:
        """Equal for two views of the same memory in the same order (`graph.shared_weights`)."""
        return (self._array.__array_interface__["data"][0], self._array.strides)

    def permuted(self, axes: list[int], name: str) -> ir.TensorProtocol:
        return HeldWeight(self._array.transpose(axes), name)

    def part(self, axis: int, start: int, length: int, name: str) -> ir.TensorProtocol:
        where = [slice(None)] * self._array.ndim
        where[axis] = slice(start, start + length)
        return HeldWeight(self._array[tuple(where)], name)

    def reshaped(self, shape: list[int], name: str) -> ir.TensorProtocol:
        return HeldWeight(self._array.reshape(shape), name)
