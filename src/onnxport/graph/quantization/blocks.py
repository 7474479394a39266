"""Quantize weights in blocks: 32 values share a scale, and each becomes an integer of 4 or 8 bits.

The layout is that of `com.microsoft::MatMulNBits`:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. A weight is read in strips; only the result
is held in memory.

    scale = -extreme / 2^(bits - 1), where extreme is the value of the block that is furthest from 0
    integer = round(value / scale) + 2^(bits - 1)
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
    """A quantized matrix.

    Attributes:
        data: uint8 (outputs, blocks, 4 * bits); with 4 bits, the first of two values is in the low half of a byte.
        scales: float32 (outputs, blocks).
    """

    data: Bytes
    scales: Floats


def block_shapes(outputs: int, inputs: int, bits: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return the shapes of `data` and `scales`.

    Args:
        outputs: outputs of the product with the weight.
        inputs: inputs of the product with the weight.
        bits: 4 or 8.
    """
    count = -(-inputs // BLOCK)
    return (outputs, count, BLOCK * bits // 8), (outputs, count)


def quantize_blocks(tensor: ir.TensorProtocol, bits: int, *, by_row: bool, half: bool = False) -> Blocks:
    """Quantize a weight.

    Args:
        tensor: float32 with two axes.
        bits: 4 or 8.
        by_row: each row computes one output, as in an embedding table and in PyTorch's linear layers; otherwise each
            column does, as on the right of MatMul.
        half: scales are the nearest numbers that float16 holds, and integers the nearest for these scales.
    """
    rows, columns = (int(size) for size in tensor.shape)
    outputs, inputs = (rows, columns) if by_row else (columns, rows)
    data_shape, scales_shape = block_shapes(outputs, inputs, bits)
    data, scales = np.empty(data_shape, np.uint8), np.empty(scales_shape, np.float32)
    for start, strip in strips(tensor):
        rows_or_blocks = (
            slice(start, start + len(strip)) if by_row else slice(start // BLOCK, -(-(start + len(strip)) // BLOCK))
        )
        integers, row_scales = quantize_rows(strip if by_row else strip.T, bits, half=half)
        where = (rows_or_blocks,) if by_row else (slice(None), rows_or_blocks)
        data[where], scales[where] = _packed(integers, bits), row_scales
    return Blocks(data, scales)


def dequantized_strips(tensor: ir.TensorProtocol, bits: int, *, by_row: bool, half: bool = False) -> Iterator[Floats]:
    """Yield the values that the quantized weight represents, in the weight's own layout, in strips of rows.

    Args:
        tensor: float32 with two axes.
        bits: 4 or 8.
        by_row, half: see `quantize_blocks`.
    """
    zero_point = np.float32(1 << (bits - 1))
    for _, strip in strips(tensor):
        rows = strip if by_row else strip.T
        integers, scales = quantize_rows(rows, bits, half=half)
        values = ((integers.astype(np.float32) - zero_point) * scales[..., None]).reshape(len(rows), -1)[
            :, : rows.shape[1]
        ]
        yield np.ascontiguousarray(values if by_row else values.T)


def quantize_rows(rows: Floats, bits: int, *, half: bool = False) -> tuple[Bytes, Floats]:
    """Quantize the rows of a matrix in blocks of 32.

    The value furthest from zero becomes the lowest integer. There is one integer more below zero than above, so the
    whole range is used.

    Args:
        rows: (rows, columns).
        bits: 4 or 8.
        half: see `quantize_blocks`.

    Returns:
        Integers (rows, blocks, 32) and scales (rows, blocks).
    """
    count = -(-rows.shape[1] // BLOCK)
    padded = np.zeros((len(rows), count * BLOCK), np.float32)
    padded[:, : rows.shape[1]] = rows
    blocks = padded.reshape(len(rows), count, BLOCK)
    zero_point = 1 << (bits - 1)
    largest, smallest = blocks.max(-1), blocks.min(-1)
    extreme = np.where(largest > -smallest, largest, smallest)
    scales = (extreme / -zero_point).astype(np.float16 if half else np.float32).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(scales == 0, 0, 1 / scales)
    # 1 / scale overflows for blocks of denormal values
    inverse = np.where(np.isfinite(inverse), inverse, 0).astype(np.float32)
    integers = np.rint(blocks * inverse[..., None]) + zero_point
    return np.clip(integers, 0, 2 * zero_point - 1).astype(np.uint8), scales


def strips(tensor: ir.TensorProtocol) -> Iterator[tuple[int, Floats]]:
    """Yield a matrix as (index of the first row, rows).

    Args:
        tensor: float32 with two axes. Each strip but the last has a multiple of 32 rows.
    """
    columns = int(tensor.shape[1])
    step = max(1, _STRIP_BYTES // (4 * columns * BLOCK)) * BLOCK * columns * 4
    start, buffer = 0, bytearray()
    for block in tensor_blocks(tensor):
        buffer += block
        while len(buffer) >= step:
            strip = np.frombuffer(bytes(buffer[:step]), "<f4").reshape(-1, columns)
            del buffer[:step]
            yield start, strip
            start += len(strip)
    if buffer:
        yield start, np.frombuffer(bytes(buffer), "<f4").reshape(-1, columns)


def _packed(integers: Bytes, bits: int) -> Bytes:
    if bits == 8:
        return integers
    packed: Bytes = integers[..., ::2] | np.left_shift(integers[..., 1::2], 4, dtype=np.uint8)
    return packed
