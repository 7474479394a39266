"""Nodes and weights of an ONNX graph file, read without onnx and without reading the weights.

WireField numbers are those of onnx.proto (github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from onnxport.errors import FolderError
from onnxport.formats.protobuf_wire import VARINT, WireField, packed_varints, read_fields

# TensorProto.DataType -> numpy's name; types that numpy lacks have none and are compared byte by byte.
_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
_BITS = {8: 0, 14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4}
# Fields of TensorProto that hold values one by one -> their type there.
_TYPED = {4: "<f4", 5: "int32", 7: "int64", 10: "<f8", 11: "uint64"}


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: of the node; may be empty.
        operator: "MatMul"; "com.microsoft.Attention" where it is not one of ONNX.
        inputs, outputs: names of values; "" for one that is left out.
        captured: values of the graph that its subgraphs read.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """All values that it depends on."""
        return (*(name for name in self.inputs if name), *self.captured)


@dataclass(frozen=True)
class Weight:
    """One initializer.

    Attributes:
        dtype: numpy's name, or "type 16" for a type that numpy lacks.
        file: where its bytes are; None where they are in `inline`.
        offset, length: of the bytes in `file`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path | None = None
    offset: int = 0
    length: int = 0
    inline: bytes = b""

    def read(self) -> np.ndarray:
        """Its values, mapped from the file; bytes for a type that numpy lacks.

        Raises:
            FolderError: the file is missing or too short.
        """
        numpy_type = np.dtype("uint8" if self.dtype.startswith("type ") else self.dtype)
        if self.length == 0:
            return np.zeros(self.shape, numpy_type)
        if self.file is None:
            flat = np.frombuffer(self.inline, numpy_type)
        else:
            try:
                flat = np.memmap(self.file, numpy_type, "r", self.offset, (self.length // numpy_type.itemsize,))
            except (OSError, ValueError) as error:
                raise FolderError(
                    f"The weight {self.name} lies in {self.file.name} at byte {self.offset}, and that file is missing "
                    "or too short.",
                    hint="Copy the folder again, or convert the model again.",
                ) from error
        return flat if self.dtype.startswith("type ") else flat.reshape(self.shape)


@dataclass(frozen=True)
class GraphFile:
    """What a graph file holds.

    Attributes:
        opset: of ONNX's own operators; 0 where none is named.
        inputs, outputs: names; an input with a default is among the weights too.
    """

    path: Path
    opset: int
    producer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: dict[str, Weight]

    @property
    def operators(self) -> dict[str, int]:
        """Operator -> number of nodes, those in subgraphs left out."""
        return dict(sorted(Counter(node.operator for node in self.nodes).items()))


def read_graph_file(path: Path) -> GraphFile:
    """Nodes and weights of the graph in the file `path`; weights stay in their files.

    Raises:
        FolderError: the file is missing, truncated or no ONNX graph, or a weight lies outside of its folder.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _model(data, path)
    except (OSError, IndexError, ValueError, UnicodeDecodeError) as error:
        raise FolderError(
            f"{path} is missing, truncated or not an ONNX graph.", hint="Give a folder or an .onnx file."
        ) from error


def _model(data: mmap.mmap, path: Path) -> GraphFile:
    graph: WireField | None = None
    opset, producer = 0, ["", ""]
    for field in read_fields(data, 0, len(data)):
        if field.number == 7:
            graph = field
        elif field.number in (2, 3):
            producer[field.number - 2] = _text(data, field)
        elif field.number == 8:
            parts = {one.number: one for one in read_fields(data, field.content, field.end)}
            if 1 not in parts or not _text(data, parts[1]):
                opset = parts[2].value if 2 in parts else 0
    if graph is None:
        raise ValueError("no graph")
    inputs: list[str] = []
    outputs: list[str] = []
    nodes: list[Node] = []
    weights: dict[str, Weight] = {}
    for field in read_fields(data, graph.content, graph.end):
        if field.number == 1:
            nodes.append(_node(data, field))
        elif field.number == 5:
            weight = _weight(data, field, path)
            weights[weight.name] = weight
        elif field.number in (11, 12):
            (inputs if field.number == 11 else outputs).append(_first_text(data, field, 1))
    return GraphFile(path, opset, " ".join(producer).strip(), tuple(inputs), tuple(outputs), tuple(nodes), weights)


def _node(data: mmap.mmap, node: WireField) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    captured: list[str] = []
    name = operator = domain = ""
    for field in read_fields(data, node.content, node.end):
        if field.number == 1:
            inputs.append(_text(data, field))
        elif field.number == 2:
            outputs.append(_text(data, field))
        elif field.number == 3:
            name = _text(data, field)
        elif field.number == 4:
            operator = _text(data, field)
        elif field.number == 5:
            captured += _captured(data, field)
        elif field.number == 7:
            domain = _text(data, field)
    full = f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator
    return Node(name, full, tuple(inputs), tuple(outputs), tuple(dict.fromkeys(captured)))


def _captured(data: mmap.mmap, attribute: WireField) -> Iterator[str]:
    """Values that the graphs in an attribute read and do not make."""
    for field in read_fields(data, attribute.content, attribute.end):
        if field.number not in (6, 11):
            continue
        parts = list(read_fields(data, field.content, field.end))
        nodes = [_node(data, part) for part in parts if part.number == 1]
        own = {name for node in nodes for name in node.outputs}
        own |= {_first_text(data, part, 8) for part in parts if part.number == 5}
        own |= {_first_text(data, part, 1) for part in parts if part.number == 11}
        read = [name for node in nodes for name in node.reads]
        read += [_first_text(data, part, 1) for part in parts if part.number == 12]
        yield from (name for name in read if name not in own)


def _weight(data: mmap.mmap, tensor: WireField, path: Path) -> Weight:
    shape: list[int] = []
    kind, name, raw = 0, "", None
    typed: list[WireField] = []
    external: dict[str, str] = {}
    for field in read_fields(data, tensor.content, tensor.end):
        if field.number == 1:
            shape += _numbers(data, field)
        elif field.number == 2:
            kind = field.value
        elif field.number == 8:
            name = _text(data, field)
        elif field.number == 9:
            raw = field
        elif field.number == 13:
            external[_first_text(data, field, 1)] = _first_text(data, field, 2)
        elif field.number in _TYPED:
            typed.append(field)
    dtype, sizes = _TYPES.get(kind, f"type {kind}"), tuple(shape)
    if external:
        bits = _BITS.get(kind) or 8 * np.dtype(_TYPES.get(kind, "uint8")).itemsize
        length = int(external.get("length") or -(-math.prod(sizes) * bits // 8))
        return Weight(name, dtype, sizes, _beside(path, external), int(external.get("offset") or 0), length)
    if raw is not None:
        return Weight(name, dtype, sizes, path, raw.content, raw.end - raw.content)
    inline = b"".join(_typed(data, field, dtype) for field in typed)
    return Weight(name, dtype, sizes, inline=inline, length=len(inline))


def _beside(path: Path, external: dict[str, str]) -> Path:
    location = PurePosixPath(external.get("location", ""))
    if location.is_absolute() or ".." in location.parts or not location.name:
        raise FolderError(f"{path.name} has a weight in {str(location)!r}, outside of its folder.")
    return path.parent / location


def _typed(data: mmap.mmap, field: WireField, dtype: str) -> bytes:
    """Values that are written one by one, as bytes of the tensor's type."""
    stored = _TYPED[field.number]
    if stored.startswith("<"):
        return data[field.content : field.end]
    values = np.array(_numbers(data, field), np.uint64).view(np.int64)
    if dtype == "float16":  # its bits
        return values.astype(np.uint16).tobytes()
    return values.astype("uint8" if dtype.startswith("type ") else dtype).tobytes()


def _numbers(data: mmap.mmap, field: WireField) -> list[int]:
    """Whole numbers, packed or one."""
    if field.wire_type == VARINT:
        return [field.value]
    return packed_varints(data[field.content : field.end])


def _text(data: mmap.mmap, field: WireField) -> str:
    return data[field.content : field.end].decode("utf-8")


def _first_text(data: mmap.mmap, message: WireField, number: int) -> str:
    """The text in the field `number` of a message; "" where there is none."""
    found = (one for one in read_fields(data, message.content, message.end) if one.number == number)
    return next((_text(data, one) for one in found), "")
