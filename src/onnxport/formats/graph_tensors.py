"""The weights of a graph file, as a reader of the file sees them: names, types, shapes and the places of their bytes.

The file is walked as protobuf wire format over a memory map, so weights inside of it are not loaded. `graph_file` reads
nodes and the weights of the main graph alone, without onnx.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.errors import FolderError
from onnxport.formats.protobuf_wire import BYTES, WireField, read_fields

_BLOCK_BYTES = 8 * 2**20
_MODEL_GRAPH, _MODEL_FUNCTION, _FUNCTION_NODE = 7, 25, 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_TENSOR_RAW = 9


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a graph.

    Attributes:
        name: of the initializer, or of the value that a Constant gives.
        dtype: ONNX's number of the type.
        shape: sizes of its axes.
        file: the file that holds its bytes.
        offset, length: of its bytes in that file.
        values: its bytes, where they are not stored as they are (`int64_data` and the like); then no file is read.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    file: Path
    offset: int = 0
    length: int = 0
    values: bytes | None = None

    @property
    def elements(self) -> int:
        """Number of its elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Number of its bytes."""
        return self.length if self.values is None else len(self.values)

    def array(self) -> np.ndarray[Any, Any]:
        """Its values, mapped from the file; numbers of fewer than 8 bits stay packed."""
        import onnx_ir as ir

        kind = ir.DataType(self.dtype)
        if kind.bitwidth < 8 or kind == ir.DataType.STRING:
            return np.frombuffer(self.bytes(), np.uint8)
        dtype = kind.numpy().newbyteorder("<")
        if self.values is not None or not self.length:
            return np.frombuffer(self.values or b"", dtype).reshape(self.shape)
        raw: np.ndarray[Any, Any] = np.memmap(self.file, np.uint8, "r", self.offset, (self.length,))
        found: np.ndarray[Any, Any] = np.asarray(raw).view(dtype).reshape(self.shape)
        return found

    def blocks(self) -> Iterator[bytes]:
        """Yield its little-endian bytes in order, in blocks of at most 8 MiB.

        Raises:
            FolderError: the file ends before it.
        """
        if self.values is not None:
            yield self.values
            return
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            left = self.length
            while left:
                block = opened.read(min(left, _BLOCK_BYTES))
                if not block:
                    raise _short(self.file, self.name)
                left -= len(block)
                yield block

    def bytes(self) -> bytes:
        """All of its bytes."""
        return b"".join(self.blocks())


def graph_tensors(path: Path) -> list[FileTensor]:
    """All initializers and constants of the graph in the file `path`, of its subgraphs and functions too.

    Raises:
        FolderError: the file is no ONNX graph, or names bytes that are not there.
        OSError: a file cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise _broken(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return list(_of_model(data, path))
            except (IndexError, ValueError) as error:
                raise _broken(path) from error


def _of_model(data: mmap.mmap, path: Path) -> Iterator[FileTensor]:
    for part in _messages(data, 0, len(data)):
        if part.number == _MODEL_GRAPH:
            for inner in _messages(data, part.content, part.end):
                if inner.number == _GRAPH_INITIALIZER:
                    yield _tensor(data, inner, path)
                elif inner.number == _GRAPH_NODE:
                    yield from _of_node(data[inner.content : inner.end], path)
        elif part.number == _MODEL_FUNCTION:
            for inner in _messages(data, part.content, part.end):
                if inner.number == _FUNCTION_NODE:
                    yield from _of_node(data[inner.content : inner.end], path)


def _messages(data: mmap.mmap, start: int, end: int) -> Iterator[WireField]:
    return (part for part in read_fields(data, start, end) if part.wire_type == BYTES)


def _of_node(message: bytes, path: Path) -> Iterator[FileTensor]:
    import onnx

    node = onnx.NodeProto.FromString(message)
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield _parsed(attribute.t, path, node.output[0] if node.output else attribute.name)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g, path)
        for graph in attribute.graphs:
            yield from _of_graph(graph, path)


def _of_graph(graph: Any, path: Path) -> Iterator[FileTensor]:
    for tensor in graph.initializer:
        yield _parsed(tensor, path, tensor.name)
    for node in graph.node:
        yield from _of_node(node.SerializeToString(), path)


def _tensor(data: mmap.mmap, message: WireField, path: Path) -> FileTensor:
    """An initializer; bytes in `raw_data` stay where they are."""
    import onnx

    raw: WireField | None = None
    rest = bytearray()
    for part in read_fields(data, message.content, message.end):
        if part.number == _TENSOR_RAW:
            raw = part
        else:
            rest += data[part.start : part.end]
    tensor = onnx.TensorProto.FromString(bytes(rest))
    if raw is None:
        return _parsed(tensor, path, tensor.name)
    length = raw.end - raw.content
    return _checked(FileTensor(tensor.name, tensor.data_type, tuple(tensor.dims), path, raw.content, length))


def _parsed(tensor: Any, path: Path, name: str) -> FileTensor:
    import onnx

    shape = tuple(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        place = {entry.key: entry.value for entry in tensor.external_data}
        file = path.parent / place.get("location", "")
        offset, size = int(place.get("offset", 0)), file.stat().st_size if file.is_file() else 0
        length = int(place["length"]) if "length" in place else size - offset
        if not file.is_file() or offset < 0 or length < 0 or offset + length > size:
            raise _short(file, name)
        return _checked(FileTensor(name, tensor.data_type, shape, file, offset, length))
    if tensor.data_type == onnx.TensorProto.STRING:
        return FileTensor(name, tensor.data_type, shape, path, values=b"\0".join(tensor.string_data))
    values = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
    return FileTensor(name, tensor.data_type, shape, path, values=values)


def _checked(tensor: FileTensor) -> FileTensor:
    """Raises FolderError where a tensor has another number of bytes than its type and shape need."""
    import onnx_ir as ir

    needed = -(-tensor.elements * ir.DataType(tensor.dtype).bitwidth // 8)
    if needed != tensor.length:
        raise FolderError(
            f"The weight {tensor.name!r} has {tensor.length:,} bytes in {tensor.file.name}, and its type and shape "
            f"need {needed:,}.",
            hint="Convert the model again.",
        )
    return tensor


def _short(file: Path, name: str) -> FolderError:
    return FolderError(
        f"{file.name}, which holds the weight {name!r}, is missing or ends before the end of the weight.",
        hint="Convert the model again.",
    )


def _broken(path: Path) -> FolderError:
    return FolderError(f"{path.name} is truncated, or not an ONNX graph.", hint="Convert the model again.")
