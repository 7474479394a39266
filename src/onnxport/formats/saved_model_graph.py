"""What a saved_model.pb names: operators, functions, signatures, savers and assets. Read without TensorFlow.

Protocol Buffers merges a message that occurs twice, and takes the last of two strings. Here every occurrence counts, so
that no other reader sees an operator that is not seen here.

The messages: saved_model.proto, meta_graph.proto, graph.proto, function.proto, node_def.proto, attr_value.proto,
saved_object_graph.proto of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from onnxport.formats.protobuf_wire import BYTES, Buffer, WireField, read_fields

_DEEPEST = 64  # attributes in attributes; TensorFlow's own are two deep


@dataclass
class Node:
    """One node of a graph or of a function.

    Attributes:
        operators: its operator; several where the file is not sound.
        functions: functions that its attributes name.
        strings: attribute -> its strings.
    """

    name: str = ""
    operators: set[str] = field(default_factory=set)
    inputs: list[str] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    strings: dict[str, set[bytes]] = field(default_factory=dict)


@dataclass
class Saver:
    """The nodes that TensorFlow 1 runs to restore the variables."""

    filename: str = ""
    restore: str = ""


@dataclass
class SavedGraph:
    """One graph of a SavedModel with its functions.

    Attributes:
        functions: name -> nodes.
        mentioned: names of nodes that signatures and collections name, without those of savers.
        object_functions: functions that objects of the model have, which loading may call.
        has_objects: TensorFlow 2 saved it.
        assets: file names of its assets.
    """

    nodes: list[Node] = field(default_factory=list)
    functions: dict[str, list[Node]] = field(default_factory=dict)
    saver: Saver = field(default_factory=Saver)
    mentioned: set[str] = field(default_factory=set)
    object_functions: set[str] = field(default_factory=set)
    has_objects: bool = False
    assets: list[str] = field(default_factory=list)

    def all_nodes(self) -> Iterator[Node]:
        """Those of the graph and of all functions."""
        yield from self.nodes
        for nodes in self.functions.values():
            yield from nodes


def read_saved_model(data: Buffer) -> list[SavedGraph]:
    """The graphs of a SavedModel message.

    Raises:
        ValueError: not a message of this kind, or attributes that are nested too deeply.
    """
    return [_graph(data, one) for one in _messages(data, 0, len(data), 2)]


def node_of(tensor: str) -> str:
    """The node of a tensor's name: "a" of "a:0" and of the control input "^a"."""
    return tensor.removeprefix("^").partition(":")[0]


def _graph(data: Buffer, meta: WireField) -> SavedGraph:
    found = SavedGraph()
    for part in read_fields(data, meta.content, meta.end):
        if part.wire_type != BYTES:
            continue
        match part.number:
            case 2:
                _graph_def(data, part, found)
            case 3:
                _saver(data, part, found)
            case 4:
                _collection(data, part, found)
            case 5:
                found.mentioned |= {node_of(text) for text in _strings(data, part, 0)}
            case 6:
                found.assets += [_text(data, one) for one in _messages(data, part.content, part.end, 2)]
            case 7:
                found.has_objects = True
                _objects(data, part, found)
    return found


def _graph_def(data: Buffer, graph: WireField, found: SavedGraph) -> None:
    for part in read_fields(data, graph.content, graph.end):
        if part.number == 1 and part.wire_type == BYTES:
            found.nodes.append(_node(data, part))
        elif part.number == 2 and part.wire_type == BYTES:
            for function in _messages(data, part.content, part.end, 1):
                nodes = [_node(data, one) for one in _messages(data, function.content, function.end, 3)]
                names = [
                    _text(data, name)
                    for signature in _messages(data, function.content, function.end, 1)
                    for name in _messages(data, signature.content, signature.end, 1)
                ]
                for name in names or [""]:
                    found.functions.setdefault(name, []).extend(nodes)


def _node(data: Buffer, part: WireField) -> Node:
    node = Node()
    for one in read_fields(data, part.content, part.end):
        if one.wire_type != BYTES:
            continue
        match one.number:
            case 1:
                node.name = _text(data, one)
            case 2:
                node.operators.add(_text(data, one))
            case 3:
                node.inputs.append(_text(data, one))
            case 5:
                _attribute(data, one, node, 0)
    return node


def _attribute(data: Buffer, entry: WireField, node: Node, depth: int) -> None:
    """One entry of a map of attributes."""
    keys = [_text(data, key) for key in _messages(data, entry.content, entry.end, 1)] or [""]
    for value in _messages(data, entry.content, entry.end, 2):
        for key in keys:
            _attribute_value(data, value, node, key, depth)


def _attribute_value(data: Buffer, value: WireField, node: Node, key: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"attributes of {node.name!r} are nested more than {_DEEPEST} deep")
    for one in read_fields(data, value.content, value.end):
        if one.wire_type != BYTES:
            continue
        if one.number == 1:  # a list: of strings in field 2, of functions in field 9
            for item in _messages(data, one.content, one.end, 2):
                node.strings.setdefault(key, set()).add(bytes(data[item.content : item.end]))
            for item in _messages(data, one.content, one.end, 9):
                _function_attribute(data, item, node, depth)
        elif one.number == 2:
            node.strings.setdefault(key, set()).add(bytes(data[one.content : one.end]))
        elif one.number == 10:
            _function_attribute(data, one, node, depth)


def _function_attribute(data: Buffer, value: WireField, node: Node, depth: int) -> None:
    node.functions |= {_text(data, name) for name in _messages(data, value.content, value.end, 1)}
    for entry in _messages(data, value.content, value.end, 2):
        _attribute(data, entry, node, depth + 1)


def _saver(data: Buffer, part: WireField, found: SavedGraph) -> None:
    for one in read_fields(data, part.content, part.end):
        if one.number == 1 and one.wire_type == BYTES:
            found.saver.filename = node_of(_text(data, one))
        elif one.number == 3 and one.wire_type == BYTES:
            found.saver.restore = node_of(_text(data, one))


def _collection(data: Buffer, part: WireField, found: SavedGraph) -> None:
    """Names in collections: of variables' initializers, of operators that loading runs. Savers are not run."""
    keys = [_text(data, key) for key in _messages(data, part.content, part.end, 1)]
    if keys == ["savers"]:
        return
    texts = {text for value in _messages(data, part.content, part.end, 2) for text in _strings(data, value, 0)}
    found.mentioned |= {node_of(text) for text in texts}
    if keys != ["saved_model_assets"]:
        return
    for value in _messages(data, part.content, part.end, 2):  # Any messages, each with an AssetFileDef in field 2
        for some in _messages(data, value.content, value.end, 5):
            for any_message in _messages(data, some.content, some.end, 1):
                for asset in _messages(data, any_message.content, any_message.end, 2):
                    found.assets += [_text(data, name) for name in _messages(data, asset.content, asset.end, 2)]


def _objects(data: Buffer, part: WireField, found: SavedGraph) -> None:
    for one in read_fields(data, part.content, part.end):
        if one.wire_type != BYTES:
            continue
        if one.number == 2:  # concrete functions by name
            found.object_functions |= {_text(data, key) for key in _messages(data, one.content, one.end, 1)}
        elif one.number == 1:
            for kind, name in ((6, 1), (8, 1), (12, 2)):  # functions, bare functions, captured tensors
                for value in _messages(data, one.content, one.end, kind):
                    found.object_functions |= {
                        _text(data, key) for key in _messages(data, value.content, value.end, name)
                    }


def _strings(data: Buffer, part: WireField, depth: int) -> Iterator[str]:
    """Everything in a message that may be a string; a message inside may look like one too."""
    if depth > 8:
        return
    try:
        inside = list(read_fields(data, part.content, part.end))
    except ValueError:
        return
    for one in inside:
        if one.wire_type == BYTES:
            yield _text(data, one)
            yield from _strings(data, one, depth + 1)


def _messages(data: Buffer, start: int, end: int, number: int) -> Iterator[WireField]:
    """The length-delimited fields of that number."""
    return (one for one in read_fields(data, start, end) if one.number == number and one.wire_type == BYTES)


def _text(data: Buffer, part: WireField) -> str:
    return bytes(data[part.content : part.end]).decode("utf-8", errors="surrogateescape")
