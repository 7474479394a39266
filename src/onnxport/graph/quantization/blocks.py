"""Weights rounded in blocks: 32 numbers share a scale, and each becomes an integer of 4 or 8 bits.

The layout is that of `com.microsoft::MatMulNBits` and `GatherBlockQuantized`. A weight passes in strips;
only what it becomes is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxport.serialization.tensor_bytes import tensor_blocks

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCK = 32
_STRIP_BYTES = 8 * 2**20

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Blocks:
    """A matrix of integers with scales.

    Attributes:
        data: (outputs, blocks, 4 * bits); with 4 bits the first of two numbers is in the low half of a byte.
        scales: (outputs, blocks).
    """

    data: Bytes
    scales: Floats


def shapes(outputs: int, inputs: int, bits: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Of `data` and `scales`, for a weight that makes so many outputs of so many inputs."""
    count = -(-inputs // BLOCK)
    return (outputs, count, BLOCK * bits // 8), (outputs, count)


def quantize(tensor: ir.TensorProtocol, bits: int, *, by_row: bool) -> Blocks:
    """Round a weight.

    Args:
        tensor: float32 with two axes.
        bits: 4 or 8.
        by_row: a row makes one output, as in an embedding table and in PyTorch's linear layers; else a
            column does, as on the right of MatMul.
    """
    rows, columns = (int(size) for size in tensor.shape)
    outputs, inputs = (rows, columns) if by_row else (columns, rows)
    data_shape, scales_shape = shapes(outputs, inputs, bits)
    data, scales = np.empty(data_shape, np.uint8), np.empty(scales_shape, np.float32)
    for start, strip in strips(tensor):
        place = slice(start, start + len(strip)) if by_row else slice(start // BLOCK, -(-(start + len(strip)) // BLOCK))
        numbers, own = round_rows(strip if by_row else strip.T, bits)
        where = (place,) if by_row else (slice(None), place)
        data[where], scales[where] = _packed(numbers, bits), own
    return Blocks(data, scales)


def rounded(tensor: ir.TensorProtocol, bits: int, *, by_row: bool) -> Iterator[Floats]:
    """What `quantize` makes of a weight as numbers again, in the weight's own layout, in strips of rows."""
    middle = np.float32(1 << (bits - 1))
    for _, strip in strips(tensor):
        rows = strip if by_row else strip.T
        numbers, scales = round_rows(rows, bits)
        values = ((numbers.astype(np.float32) - middle) * scales[..., None]).reshape(len(rows), -1)[:, : rows.shape[1]]
        yield np.ascontiguousarray(values if by_row else values.T)


def round_rows(rows: Floats, bits: int) -> tuple[Bytes, Floats]:
    """Integers (rows, blocks, 32) and scales (rows, blocks) of a matrix (rows, columns).

    The number that is furthest from zero becomes the lowest integer, which has no counterpart above zero, so
    that the whole range is used.
    """
    count = -(-rows.shape[1] // BLOCK)
    padded = np.zeros((len(rows), count * BLOCK), np.float32)
    padded[:, : rows.shape[1]] = rows
    blocks = padded.reshape(len(rows), count, BLOCK)
    middle = 1 << (bits - 1)
    largest, smallest = blocks.max(-1), blocks.min(-1)
    furthest = np.where(largest > -smallest, largest, smallest)
    scales = (furthest / -middle).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(scales == 0, 0, 1 / scales)
    inverse = np.where(np.isfinite(inverse), inverse, 0).astype(np.float32)  # of a block of next to nothing
    numbers = np.rint(blocks * inverse[..., None]) + middle
    return np.clip(numbers, 0, 2 * middle - 1).astype(np.uint8), scales


def strips(tensor: ir.TensorProtocol) -> Iterator[tuple[int, Floats]]:
    """A matrix as (number of the first row, some rows), a multiple of 32 but for the last."""
    columns = int(tensor.shape[1])
    step = max(1, _STRIP_BYTES // (4 * columns * BLOCK)) * BLOCK * columns * 4
    start, held = 0, bytearray()
    for block in tensor_blocks(tensor):
        held += block
        while len(held) >= step:
            strip = np.frombuffer(bytes(held[:step]), "<f4").reshape(-1, columns)
            del held[:step]
            yield start, strip
            start += len(strip)
    if held:
        yield start, np.frombuffer(bytes(held), "<f4").reshape(-1, columns)


def _packed(numbers: Bytes, bits: int) -> Bytes:
    if bits == 8:
        return numbers
    packed: Bytes = numbers[..., ::2] | np.left_shift(numbers[..., 1::2], 4, dtype=np.uint8)
    return packed
