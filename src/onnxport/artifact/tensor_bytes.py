"""The bytes of an onnx_ir tensor, in blocks, so that no tensor is ever copied whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from onnxport.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCK_BYTES = 4 * 2**20


def write_tensor(tensor: ir.TensorProtocol, file: BinaryIO, report: Callable[[int], None]) -> None:
    """Append the little-endian bytes of `tensor`, as `TensorProto.raw_data` has them.

    Args:
        tensor: any shape and any type but string; types below 8 bits are packed.
        file: at the position to write to.
        report: gets the number of bytes of every block after it was written.

    Raises:
        ExportError: the tensor gave another number of bytes than its type and shape say (lazy
            tensors can); a file with a wrong length would be unreadable.
        OSError: the file cannot be written.
    """
    import onnx_ir as ir

    if isinstance(tensor, ir.ExternalTensor):
        # Copied from file to file: reading it through its memory map would count as our memory.
        start = file.tell()
        tensor.tofile(file)
        written = file.tell() - start
        report(written)
    else:
        written = 0
        for block in _blocks(tensor):
            file.write(block)
            written += len(block)
            report(len(block))
    if written != tensor.nbytes:
        raise ExportError(
            f"The weight {tensor.name!r} has {written:,} bytes, but its type {tensor.dtype} and shape {tensor.shape} "
            f"need {tensor.nbytes:,}. The model was not written.",
            hint="The exported graph is broken; run the conversion again, or report this model.",
        )


def _blocks(tensor: ir.TensorProtocol) -> Iterator[memoryview]:
    import onnx_ir as ir

    if tensor.dtype.bitwidth < 8:
        packed = tensor.numpy_packed() if isinstance(tensor, ir.PackedTensor) else None
        array = packed if packed is not None else np.frombuffer(tensor.tobytes(), dtype=np.uint8)
    else:
        array = tensor.numpy()
        if sys.byteorder == "big" or array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
    yield from _array_blocks(array)


def _array_blocks(array: np.ndarray[Any, Any]) -> Iterator[memoryview]:
    """C-order bytes of an array of any layout; a transposed one is copied block by block."""
    if array.nbytes == 0:
        return
    if array.flags.c_contiguous or array.nbytes <= BLOCK_BYTES:
        # uint8, because the buffer protocol does not know bfloat16 and its like.
        view = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        for start in range(0, len(view), BLOCK_BYTES):
            yield view[start : start + BLOCK_BYTES]
        return
    rows = BLOCK_BYTES * len(array) // array.nbytes
    if rows == 0:
        for row in array:
            yield from _array_blocks(row)
        return
    for start in range(0, len(array), rows):
        yield from _array_blocks(array[start : start + rows])
