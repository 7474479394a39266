"""Memory-map the weights that are stored inside an .onnx file.

ONNX Runtime reads a whole .onnx file into memory and then copies every weight. Only weights in an external data file
are memory-mapped. This module rewrites the graph, in memory, so that each large weight refers to its bytes in the
.onnx file itself, as external data. So the weights are neither read nor copied.

The file is parsed as protobuf wire format (protobuf.dev/programming-guides/encoding). That needs neither onnx nor
protobuf, and skips the weights.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from onnxport.errors import FolderError
from onnxport.formats.protobuf_wire import BYTES, VARINT, WireField, field_bytes, read_fields, varint

# Smaller weights stay in the graph: ONNX Runtime's shape inference reads them there.
MAPPED_FROM_BYTES = 2**16

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_RAW_DATA, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 9, 13, 14
_EXTERNAL = 1


def graph_without_weights(path: Path) -> bytes | None:
    """The graph in the file `path`, as a ModelProto whose large weights are external data in that file.

    Load it in ONNX Runtime with the session option
    `session.model_external_initializers_file_folder_path` set to the folder of `path`.

    Returns:
        The serialized ModelProto; None if the file has no large weights.

    Raises:
        FolderError: the file is truncated, or not an ONNX graph.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise _broken(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _rewrite(data, path.name)
            except ValueError as error:
                raise _broken(path) from error


def _rewrite(data: mmap.mmap, name: str) -> bytes | None:
    found = False
    model = bytearray()
    for field in read_fields(data, 0, len(data)):
        if field.number != _MODEL_GRAPH or field.wire_type != BYTES:
            model += data[field.start : field.end]
            continue
        graph = bytearray()
        for part in read_fields(data, field.content, field.end):
            tensor = _external(data, part, name) if part.number == _GRAPH_INITIALIZER else None
            found = found or tensor is not None
            graph += data[part.start : part.end] if tensor is None else field_bytes(_GRAPH_INITIALIZER, tensor)
        model += field_bytes(_MODEL_GRAPH, bytes(graph))
    return bytes(model) if found else None


def _external(data: mmap.mmap, tensor: WireField, name: str) -> bytes | None:
    """A TensorProto with external data in place of its bytes; None for a small one."""
    if tensor.end - tensor.content < MAPPED_FROM_BYTES:
        return None
    kept = bytearray()
    raw: WireField | None = None
    for field in read_fields(data, tensor.content, tensor.end):
        if field.number == _TENSOR_RAW_DATA:
            raw = field
        else:
            kept += data[field.start : field.end]
    if raw is None or raw.end - raw.content < MAPPED_FROM_BYTES:
        return None
    place = {"location": name, "offset": str(raw.content), "length": str(raw.end - raw.content)}
    for key, value in place.items():
        kept += field_bytes(_TENSOR_EXTERNAL_DATA, field_bytes(1, key.encode()) + field_bytes(2, value.encode()))
    return bytes(kept) + varint(_TENSOR_DATA_LOCATION << 3 | VARINT) + varint(_EXTERNAL)


def _broken(path: Path) -> FolderError:
    return FolderError(
        f"{path.name} is truncated, or not an ONNX graph.", hint="Copy it again, or convert the model again."
    )
