"""Quantized weights as tensors that are computed while they are written (see `blocks`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxport.graph.quantization.blocks import BLOCK, Blocks, block_shapes, dequantized_strips, quantize_blocks


class BlockWeight:
    """A weight in quantized blocks; `data` and `scales` are computed on demand.

    Args:
        tensor: float32 with two axes.
        name: name of the weight; the tensors are called `name.q4` (or `name.q8`) and `name.scales`.
        bits: 4 or 8.
        by_row: see `blocks.quantize_blocks`.
        half: scales are numbers that float16 holds.

    Attributes:
        outputs: outputs of the product with the weight.
        inputs: inputs of the product with the weight.
        data: the integers, uint8 (outputs, blocks, 4 * bits).
        scales: float32 (outputs, blocks).
        zeros, columns: none: zero points are in the middle, and inputs in their order.
        block: inputs that have one scale.
    """

    zeros: None = None
    columns: None = None
    block = BLOCK

    def __init__(self, tensor: ir.TensorProtocol, name: str, bits: int, *, by_row: bool, half: bool = False) -> None:
        self.tensor, self.bits, self.by_row, self._half = tensor, bits, by_row, half
        rows, columns = (int(size) for size in tensor.shape)
        self.outputs, self.inputs = (rows, columns) if by_row else (columns, rows)
        data, scales = block_shapes(self.outputs, self.inputs, bits)
        self.data = _BlockTensor(self, "data", ir.DataType.UINT8, data, f"{name}.q{bits}")
        self.scales = _BlockTensor(self, "scales", ir.DataType.FLOAT, scales, f"{name}.scales")
        self._blocks: Blocks | None = None

    def values(self, which: str) -> np.ndarray[Any, Any]:
        """Return `data` or `scales`.

        Both are computed once if they are read one after the other. `data` is not kept in memory.

        Args:
            which: "data" or "scales".
        """
        made = self._blocks if self._blocks is not None else self._quantized()
        self._blocks = Blocks(np.empty(0, np.uint8), made.scales) if which == "data" else None
        values: np.ndarray[Any, Any] = getattr(made, which)
        return values if values.size else self._quantized().data

    def _quantized(self) -> Blocks:
        return quantize_blocks(self.tensor, self.bits, by_row=self.by_row, half=self._half)


class _BlockTensor(ir.LazyTensor):  # type: ignore[misc]
    """The integers or the scales of a `BlockWeight`."""

    def __init__(self, weight: BlockWeight, which: str, dtype: ir.DataType, shape: Any, name: str) -> None:
        super().__init__(
            lambda: ir.Tensor(weight.values(which), name=name), dtype=dtype, shape=ir.Shape(shape), name=name
        )
        self.weight, self.which = weight, which

    @property
    def origin(self) -> tuple[Any, ...] | None:
        """Equal for two tensors that are computed from the same bytes of a file (see `graph.shared_weights`)."""
        tensor = self.weight.tensor
        if not isinstance(tensor, ir.ExternalTensor):
            return None
        return (tensor.path, tensor.offset, tensor.length, self.which, self.weight.bits, self.weight.by_row)


class DequantizedTensor(ir.LazyTensor):  # type: ignore[misc]
    """A weight in its own type and layout, with the values that its quantized blocks represent.

    Args:
        tensor: float32 with two axes.
        name: name of the weight.
        bits: 4 or 8.
        by_row, half: see `blocks.quantize_blocks`.
    """

    def __init__(self, tensor: ir.TensorProtocol, name: str, bits: int, *, by_row: bool, half: bool = False) -> None:
        super().__init__(
            lambda: ir.Tensor(np.concatenate(list(self._strips())), name=name),
            dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape), name=name,
        )  # fmt: skip
        self._tensor, self._bits, self._by_row, self._half = tensor, bits, by_row, half

    def blocks(self) -> Iterator[memoryview]:
        """Yield its bytes, strip by strip."""
        for strip in self._strips():
            yield memoryview(strip.reshape(-1).view(np.uint8))  # type: ignore[arg-type]

    def _strips(self) -> Iterator[np.ndarray[Any, Any]]:
        return dequantized_strips(self._tensor, self._bits, by_row=self._by_row, half=self._half)
