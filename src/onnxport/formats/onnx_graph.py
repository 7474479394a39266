"""The parts of an ONNX file that decide whether it is safe to run: tensors, nodes, functions, domains.

Read from Protocol Buffers' wire format (onnx.proto), without onnx and without copying weights. What is read is bounded:
files with too many fields or messages that are nested too deeply are refused while they are read.

Protocol Buffers merges a message that occurs twice and takes the last of two numbers. Readers that do not may see
another model, so here a second occurrence is counted and reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from onnxport.formats.protobuf_wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Buffer,
    WireField,
    packed_varints,
    read_fields,
)

MOST_FIELDS = 20_000_000
DEEPEST = 64  # graphs in attributes of nodes of graphs
# Value fields of a TensorProto, and the bytes of an element that is no varint.
VALUE_FIELDS = {
    4: "float_data", 5: "int32_data", 6: "string_data", 7: "int64_data", 9: "raw_data", 10: "double_data",
    11: "uint64_data",
}  # fmt: skip
_WIDTHS = {4: 4, 10: 8}
_CONTINUED = bytes(range(128, 256))


class LimitError(ValueError):
    """The file has more fields, or deeper ones, than any model."""


@dataclass
class Tensor:
    """A TensorProto.

    Attributes:
        where: "the initializer 'w'", for messages.
        data_type: its number in onnx.proto.
        values: field name -> number of values; of raw_data the bytes.
        external: the entries of external_data, in order.
        is_external: data_location says so.
        repeated: fields that a tensor has once and that occur more than once.
    """

    where: str
    name: str = ""
    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    values: dict[str, int] = field(default_factory=dict)
    external: list[tuple[str, str]] = field(default_factory=list)
    is_external: bool = False
    segmented: bool = False
    repeated: list[str] = field(default_factory=list)


Call = tuple[str, str]  # domain and name of an operator or a function


@dataclass
class OnnxGraph:
    """What was found in a file.

    Attributes:
        calls: (domain, operator) -> number of nodes, of the main graph with its subgraphs.
        functions: (domain, name) -> the calls in its body.
        twice: functions that are defined more than once.
        opsets: domains that the model and its functions import.
        initializers: names of the main graph, with repetitions counted.
        depth: of the deepest graph; 1 is the main graph.
        graphs: number of graph fields of the model; one in a sound file.
    """

    tensors: list[Tensor] = field(default_factory=list)
    calls: Counter[Call] = field(default_factory=Counter)
    functions: dict[Call, Counter[Call]] = field(default_factory=dict)
    twice: list[Call] = field(default_factory=list)
    opsets: list[str] = field(default_factory=list)
    initializers: Counter[str] = field(default_factory=Counter)
    ir_version: int = 0
    depth: int = 0
    graphs: int = 0
    outputs: int = 0


def read_onnx(data: Buffer) -> OnnxGraph:
    """The parts of the ModelProto in `data`.

    Raises:
        LimitError: it has more fields or deeper graphs than any model.
        ValueError: it is cut off or no message.
    """
    return _Reader(data).model()


class _Reader:
    """Walks through the messages, and counts what it has read."""

    def __init__(self, data: Buffer) -> None:
        self.data, self.left, self.found = data, MOST_FIELDS, OnnxGraph()

    def model(self) -> OnnxGraph:
        found = self.found
        for part in self._fields(0, len(self.data)):
            if part.number == 1 and part.wire_type == VARINT:
                found.ir_version = part.value
            elif part.wire_type != BYTES:
                continue
            elif part.number == 7:
                found.graphs += 1
                self._graph(part, found.calls, 1, main=True)
            elif part.number == 8:
                found.opsets.append(self._first_text(part, 1))
            elif part.number == 20:  # training
                for graph in self._messages(part, 1, 2):
                    self._graph(graph, found.calls, 1)
            elif part.number == 25:
                self._function(part)
        return found

    def _function(self, function: WireField) -> None:
        calls: Counter[Call] = Counter()
        names = {1: "", 10: ""}
        for part in self._inside(function):
            if part.wire_type != BYTES:
                continue
            if part.number in names:
                names[part.number] = self._text(part)
            elif part.number == 7:
                self._node(part, calls, 1)
            elif part.number == 9:
                self.found.opsets.append(self._first_text(part, 1))
            elif part.number == 11:
                self._attribute(part, calls, 1, "a function")
        key = (names[10], names[1])
        if key in self.found.functions:
            self.found.twice.append(key)
            calls += self.found.functions[key]
        self.found.functions[key] = calls

    def _graph(self, graph: WireField, calls: Counter[Call], depth: int, *, main: bool = False) -> None:
        if depth > DEEPEST:
            raise LimitError(f"its graphs are nested more than {DEEPEST} deep")
        self.found.depth = max(self.found.depth, depth)
        for part in self._inside(graph):
            if part.wire_type != BYTES:
                continue
            if part.number == 1:
                self._node(part, calls, depth)
            elif part.number == 5:
                tensor = self._tensor(part, "the initializer")
                if main:
                    self.found.initializers[tensor.name] += 1
            elif part.number == 12 and main:
                self.found.outputs += 1
            elif part.number == 15:
                self._sparse(part, "a sparse initializer")

    def _node(self, node: WireField, calls: Counter[Call], depth: int) -> None:
        operator = domain = ""
        attributes = []
        for part in self._inside(node):
            if part.wire_type != BYTES:
                continue
            if part.number == 4:
                operator = self._text(part)
            elif part.number == 7:
                domain = self._text(part)
            elif part.number == 5:
                attributes.append(part)
        calls[domain, operator] += 1
        for attribute in attributes:
            self._attribute(attribute, calls, depth, f"an attribute of {operator}")

    def _attribute(self, attribute: WireField, calls: Counter[Call], depth: int, where: str) -> None:
        singles: Counter[int] = Counter()
        for part in self._inside(attribute):
            if part.wire_type != BYTES:
                continue
            singles[part.number] += 1
            if part.number in (5, 10):
                tensor = self._tensor(part, where)
                if part.number == 5 and singles[5] > 1:
                    tensor.repeated.append("t")
            elif part.number in (6, 11):
                self._graph(part, calls, depth + 1)
            elif part.number in (22, 23):
                self._sparse(part, where)

    def _sparse(self, sparse: WireField, where: str) -> None:
        for part in self._messages(sparse, 1, 2):
            self._tensor(part, f"{where}, sparse")

    def _tensor(self, message: WireField, where: str) -> Tensor:
        tensor = Tensor(where)
        singles: Counter[str] = Counter()
        for part in self._inside(message):
            number = part.number
            if number == 1:
                tensor.dims += [part.value] if part.wire_type == VARINT else self._packed(part)
            elif number == 2:
                tensor.data_type = part.value
                singles["data_type"] += 1
            elif number == 3:
                tensor.segmented = True
            elif number in VALUE_FIELDS:
                name = VALUE_FIELDS[number]
                singles[name] += number == 9
                tensor.values[name] = tensor.values.get(name, 0) + self._count(part)
            elif number == 8:
                tensor.name = self._text(part)
            elif number == 13:
                tensor.external.append((self._first_text(part, 1), self._first_text(part, 2)))
            elif number == 14:
                tensor.is_external = part.value == 1
        tensor.repeated = [name for name, count in singles.items() if count > 1]
        tensor.where = f"{where} {tensor.name!r}" if tensor.name else where
        self.found.tensors.append(tensor)
        return tensor

    def _count(self, part: WireField) -> int:
        """Values in one occurrence of a value field; bytes of raw_data."""
        if part.wire_type in (FIXED32, FIXED64, VARINT):
            return 1
        length = part.end - part.content
        if part.number == 9:
            return length
        if part.number == 6:
            return 1
        width = _WIDTHS.get(part.number)
        if width is not None:
            return length // width if length % width == 0 else -1 << 62
        total = 0
        for place in range(part.content, part.end, 2**20):  # numbers end in a byte below 128
            total += len(bytes(self.data[place : min(place + 2**20, part.end)]).translate(None, _CONTINUED))
        return total

    def _packed(self, part: WireField) -> list[int]:
        """Varints one after the other."""
        if part.end - part.content > 2**16:
            raise LimitError("a tensor has more than 6,000 axes")
        return packed_varints(bytes(self.data[part.content : part.end]))

    def _fields(self, start: int, end: int) -> Iterator[WireField]:
        for part in read_fields(self.data, start, end):
            self.left -= 1
            if self.left < 0:
                raise LimitError(f"it has more than {MOST_FIELDS:,} fields")
            yield part

    def _inside(self, part: WireField) -> Iterator[WireField]:
        return self._fields(part.content, part.end)

    def _messages(self, part: WireField, *numbers: int) -> Iterator[WireField]:
        return (one for one in self._inside(part) if one.number in numbers and one.wire_type == BYTES)

    def _first_text(self, part: WireField, number: int) -> str:
        """The last text of that number in a message: the one that counts."""
        texts = [self._text(one) for one in self._messages(part, number)]
        return texts[-1] if texts else ""

    def _text(self, part: WireField) -> str:
        if part.wire_type != BYTES:
            return ""
        return bytes(self.data[part.content : min(part.end, part.content + 4096)]).decode("utf-8", "backslashreplace")
