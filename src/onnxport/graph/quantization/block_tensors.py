"""Rounded weights as tensors that are computed while they are written (`graph.blocks`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxport.graph.quantization.blocks import Blocks, quantize, rounded, shapes


class RoundedWeight:
    """One weight in blocks: `data` and `scales` are made from it when they are asked for.

    Args:
        tensor: float32 with two axes.
        name: of the weight; `name.q4` and `name.scales` are those of the tensors.
        bits: 4 or 8.
        by_row: as for `blocks.quantize`.

    Attributes:
        outputs, inputs: of the product with it.
    """

    def __init__(self, tensor: ir.TensorProtocol, name: str, bits: int, *, by_row: bool) -> None:
        self.tensor, self.bits, self.by_row = tensor, bits, by_row
        rows, columns = (int(size) for size in tensor.shape)
        self.outputs, self.inputs = (rows, columns) if by_row else (columns, rows)
        data, scales = shapes(self.outputs, self.inputs, bits)
        self.data = _Part(self, "data", ir.DataType.UINT8, data, f"{name}.q{bits}")
        self.scales = _Part(self, "scales", ir.DataType.FLOAT, scales, f"{name}.scales")
        self._made: Blocks | None = None

    def part(self, which: str) -> np.ndarray[Any, Any]:
        """`data` or `scales`. Written one after the other, they are computed once, and the first is not held."""
        made = self._made if self._made is not None else quantize(self.tensor, self.bits, by_row=self.by_row)
        self._made = Blocks(np.empty(0, np.uint8), made.scales) if which == "data" else None
        part: np.ndarray[Any, Any] = getattr(made, which)
        return part if part.size else quantize(self.tensor, self.bits, by_row=self.by_row).data


class _Part(ir.LazyTensor):
    """The integers or the scales."""

    def __init__(self, weight: RoundedWeight, which: str, dtype: ir.DataType, shape: Any, name: str) -> None:
        super().__init__(
            lambda: ir.Tensor(weight.part(which), name=name), dtype=dtype, shape=ir.Shape(shape), name=name
        )
        self.weight, self.which = weight, which

    @property
    def origin(self) -> tuple[Any, ...] | None:
        """Equal for two that are made of the same bytes of a file (`graph.shared_weights`)."""
        tensor = self.weight.tensor
        if not isinstance(tensor, ir.ExternalTensor):
            return None
        return (tensor.path, tensor.offset, tensor.length, self.which, self.weight.bits, self.weight.by_row)


class RoundedTensor(ir.LazyTensor):
    """A weight in its own type and layout, as the numbers that its blocks stand for."""

    def __init__(self, tensor: ir.TensorProtocol, name: str, bits: int, *, by_row: bool) -> None:
        super().__init__(
            lambda: ir.Tensor(np.concatenate(list(self._strips())), name=name),
            dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape), name=name,
        )  # fmt: skip
        self._tensor, self._bits, self._by_row = tensor, bits, by_row

    def blocks(self) -> Iterator[memoryview]:
        """Its bytes, strip by strip."""
        for strip in self._strips():
            yield memoryview(strip.reshape(-1).view(np.uint8))  # type: ignore[arg-type]

    def _strips(self) -> Iterator[np.ndarray[Any, Any]]:
        return rounded(self._tensor, self._bits, by_row=self._by_row)
