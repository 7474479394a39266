"""The bytes of an onnx_ir tensor, in blocks, so that no tensor is ever copied whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from onnxport.errors import ExportError
from onnxport.serialization import checksums

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCK_BYTES = 4 * 2**20


@runtime_checkable
class StreamsBytes(Protocol):
    """An onnx_ir tensor that makes its bytes only when they are written."""

    def blocks(self) -> Iterator[memoryview | bytes]:
        """Its little-endian bytes in C order, as `TensorProto.raw_data` has them, in blocks of any size.

        A block is used before the next one is asked for: all may share one buffer.
        """
        ...


class Sink(Protocol):
    """What takes the bytes: a file opened for writing, or a HashedFile."""

    def write(self, block: memoryview | bytes, /) -> object: ...


def new_buffer() -> memoryview:
    """One block of memory, for all tensors of a model."""
    return memoryview(bytearray(BLOCK_BYTES))


def write_tensor(
    tensor: ir.TensorProtocol, file: Sink, report: Callable[[int], None], buffer: memoryview | None = None
) -> str:
    """Append the little-endian bytes of `tensor`, as `TensorProto.raw_data` has them.

    Args:
        tensor: any shape and any type but string; types below 8 bits are packed.
        file: at the position to write to.
        report: gets the number of bytes of every block after it was written.
        buffer: see `tensor_blocks`.

    Returns:
        The checksum (`checksums.ALGORITHM`) of the bytes as they came from the tensor.

    Raises:
        ExportError: the tensor gave another number of bytes than its type and shape say (lazy
            tensors can), or its file ends too early; a file with a wrong length would be unreadable.
        OSError: a file cannot be read or written.
    """
    checksum = written = 0
    for block in tensor_blocks(tensor, buffer):
        written += len(block)
        if written > tensor.nbytes:
            break
        file.write(block)
        checksum = checksums.add(checksum, block)
        report(len(block))
    if written != tensor.nbytes:
        raise wrong_length(tensor, written)
    return checksums.text(checksum)


def wrong_length(tensor: ir.TensorProtocol, found: int) -> ExportError:
    """The error for a tensor that gave `found` bytes instead of the number that follows from its type and shape."""
    has = f"more than {tensor.nbytes:,}" if found > tensor.nbytes else f"{found:,}"
    return ExportError(
        f"The weight {tensor.name!r} has {has} bytes, but its type {tensor.dtype} and shape {tensor.shape} "
        f"need {tensor.nbytes:,}. The model was not written.",
        hint="The exported graph is broken; run the conversion again, or report this model.",
    )


def tensor_blocks(tensor: ir.TensorProtocol, buffer: memoryview | None = None) -> Iterator[memoryview]:
    """The bytes of `tensor` in order. A block may be overwritten when the next one is asked for.

    Args:
        tensor: as for `write_tensor`.
        buffer: what stored tensors are read into; a new one if left out.

    Raises:
        ExportError: the tensor's file ends too early.
        OSError: its file cannot be read.
    """
    import onnx_ir as ir

    if isinstance(tensor, StreamsBytes):
        for block in tensor.blocks():
            view = memoryview(block)
            yield view if view.format == "B" and view.ndim == 1 else view.cast("B")
    elif isinstance(tensor, ir.ExternalTensor):
        yield from _stored_blocks(tensor, new_buffer() if buffer is None else buffer)
    else:
        yield from _computed_blocks(tensor)


def _stored_blocks(tensor: ir.ExternalTensor, buffer: memoryview) -> Iterator[memoryview]:
    """Read, not mapped: mapped pages count as our memory. Nor copied by the kernel: every byte is hashed."""
    path = Path(tensor.path)
    missing = tensor.nbytes if tensor.length is None else tensor.length
    with path.open("rb", buffering=0) as file:
        file.seek(tensor.offset or 0)
        while missing:
            count = file.readinto(buffer[:missing])
            if not count:
                raise ExportError(
                    f"{path.name} ends {missing:,} bytes before the end of the weight {tensor.name!r}. "
                    "The model was not written.",
                    hint="Was the file changed meanwhile? Copy or download it again.",
                )
            yield buffer[:count]
            missing -= count


def _computed_blocks(tensor: ir.TensorProtocol) -> Iterator[memoryview]:
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
