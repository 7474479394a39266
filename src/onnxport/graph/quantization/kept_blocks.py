"""The integers, scales and zero points that a checkpoint stores, as inputs of `com.microsoft::MatMulNBits`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch

from onnxport.checkpoints.stored_parts import PackedWeight
from onnxport.weights.dequantize import integers_of, scales_of, zeros_of

if TYPE_CHECKING:
    from onnxport.weights.checkpoint_reader import CheckpointReader

Array = np.ndarray[Any, Any]


class KeptBlocks:
    """A weight of the checkpoint as inputs of MatMulNBits, which are read when they are written.

    Args:
        packed: how the checkpoint packs it.
        reader: reads the checkpoint.
        name: name of the weight; the tensors are called `name.q4` (or `name.q8`), `name.scales`, `name.zeros` and,
            where inputs are in another order, `name.columns`.
        block: inputs that have one scale.

    Attributes:
        outputs, inputs: of the product.
        bits: of an integer.
        data: uint8 (outputs, blocks, block * bits / 8); with 4 bits the first of two values is in the low half.
        scales: float32 (outputs, blocks).
        zeros: uint8 (outputs, blocks * bits / 8).
        columns: int64 (inputs): the input that is at each place; None where the order is as it was.
    """

    def __init__(self, packed: PackedWeight, reader: CheckpointReader, name: str, block: int) -> None:
        self.outputs, self.inputs = packed.shape
        self.bits, self.block = packed.bits, block
        self._packed, self._reader = packed, reader
        count = -(-self.inputs // block)
        integers = (self.outputs, count, block * self.bits // 8)
        self.data = _KeptTensor(self, "data", ir.DataType.UINT8, integers, f"{name}.q{self.bits}")
        self.scales = _KeptTensor(self, "scales", ir.DataType.FLOAT, (self.outputs, count), f"{name}.scales")
        zeros = (self.outputs, -(-count * self.bits // 8))
        self.zeros = _KeptTensor(self, "zeros", ir.DataType.UINT8, zeros, f"{name}.zeros")
        order = _order(packed, reader)
        self.columns = None if order is None else ir.Tensor(order, name=f"{name}.columns")

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for the same weight in two graphs."""
        return self._reader.file(self._packed.name), self._packed.name, self.block

    def values(self, which: str) -> Array:
        """Return `data`, `scales` or `zeros`.

        Args:
            which: the name.
        """
        parts = parts_of(self._packed, self._reader)
        count = -(-self.inputs // self.block)
        if which != "data":
            grid = scales_of(self._packed, parts) if which == "scales" else zero_points(self._packed, parts)
            group = min(self._packed.block[1], self.inputs)
            of_block = np.minimum(np.arange(count) * self.block // group, grid.shape[1] - 1)
            chosen: Array = grid.numpy()[:, of_block]
            return chosen if which == "scales" else _nibbles(chosen.astype(np.uint8), self.bits)
        integers = integers_of(self._packed, parts["integers"], 0, self.outputs).to(torch.uint8).numpy()
        padded = np.zeros((self.outputs, count * self.block), np.uint8)
        padded[:, : self.inputs] = integers if self.columns is None else integers[:, self.columns.numpy()]
        return _nibbles(padded, self.bits).reshape(self.outputs, count, -1)


class _KeptTensor(ir.LazyTensor):  # type: ignore[misc]
    """One of the tensors of `KeptBlocks`."""

    def __init__(self, blocks: KeptBlocks, which: str, dtype: ir.DataType, shape: Any, name: str) -> None:
        super().__init__(
            lambda: ir.Tensor(np.ascontiguousarray(blocks.values(which)), name=name),
            dtype=dtype, shape=ir.Shape(shape), name=name,
        )  # fmt: skip
        self._blocks, self._which = blocks, which

    @property
    def origin(self) -> tuple[Any, ...]:
        """Equal for two tensors that are read from the same weight (see `graph.shared_weights`)."""
        return (*self._blocks.key, self._which)


def _nibbles(values: Array, bits: int) -> Array:
    """Two numbers of 4 bits of the last axis in each byte, the first one in the low half."""
    if bits == 8:
        return values
    even = np.pad(values, [(0, 0), (0, values.shape[1] % 2)])
    packed: Array = even[:, ::2] | np.left_shift(even[:, 1::2], 4, dtype=np.uint8)
    return packed


def parts_of(packed: PackedWeight, reader: CheckpointReader) -> dict[str, torch.Tensor]:
    """The stored tensors of a packed weight, by their roles."""
    return {role: reader.tensor(name) for role, name in packed.parts.items()}


def zero_points(packed: PackedWeight, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """The zero points in the shape of the scales."""
    zeros = zeros_of(packed, parts)
    return torch.zeros(packed.grid) if zeros is None else zeros


def _order(packed: PackedWeight, reader: CheckpointReader) -> Array | None:
    if "groups" not in packed.parts:
        return None
    groups = reader.tensor(packed.parts["groups"]).numpy()
    order = np.argsort(groups, kind="stable").astype(np.int64)
    return None if np.array_equal(order, np.arange(len(order))) else order
