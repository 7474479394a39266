"""Queries, keys and values as the fused operators take them: heads concatenated, (rows, tokens, heads * features).

Projections give them in this form; the graph then splits the heads, and may rotate them. Where queries, keys and values
are parts of one projection, they are sliced from it before or after the heads are split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.fusion.attention_layers import are_same_sizes, require_opset
from onnxport.graph.fusion.packed_projection import Constants, before_head_split

if TYPE_CHECKING:
    import onnx_ir as ir

# Order of the axes (rows, tokens, parts, heads, features) with the parts in front and the heads before the tokens.
_PARTS_FIRST = [2, 0, 3, 1, 4]


@dataclass(frozen=True)
class Flat:
    """Where (rows, heads, tokens, features) comes from.

    Attributes:
        whole: (rows, tokens, parts * heads * features).
        part: which of the parts it is.
        parts: number of equal parts.
    """

    whole: ir.Value
    part: int = 0
    parts: int = 1


def flat_of(value: ir.Value) -> Flat | None:
    """The tensor whose heads were split to give `value`; None where they were changed after that.

    Args:
        value: (rows, heads, tokens, features).
    """
    flat = before_head_split(value)
    if flat is not None:
        return Flat(flat)
    found = _picked(value)  # from (parts, rows, heads, tokens, features)
    if found is not None and found[1] == 0:
        moved = found[0].producer()
        if moved is not None and moved.op_type == "Transpose" and _order(moved) == _PARTS_FIRST:
            return _parts_of(moved.inputs[0], found[2], value)
    node = value.producer()
    if node is None or node.op_type != "Transpose" or _order(node) != [0, 2, 1, 3] or node.inputs[0] is None:
        return None
    found = _picked(node.inputs[0])  # from (rows, tokens, parts, heads, features)
    return _parts_of(found[0], found[2], value) if found is not None and found[1] == 2 else None


def _parts_of(split: ir.Value | None, part: int, value: ir.Value) -> Flat | None:
    """From (rows, tokens, parts, heads, features), which is a reshape of all parts on one axis."""
    node = split.producer() if split is not None else None
    whole = node.inputs[0] if node is not None and node.op_type == "Reshape" else None
    if whole is None or split is None or whole.shape is None or split.shape is None or value.shape is None:
        return None
    rows, heads, tokens, features = value.shape
    parts = split.shape[2] if len(split.shape) == 5 else None
    if not isinstance(parts, int) or len(whole.shape) != 3 or not isinstance(heads, int):
        return None
    same = are_same_sizes(split.shape, [rows, tokens, parts, heads, features])
    return Flat(whole, part, parts) if same and are_same_sizes(whole.shape[:2], [rows, tokens]) else None


def _picked(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """What `value` is one entry of: the value with one more axis, that axis, and the entry."""
    node = value.producer()
    if node is None or node.inputs[0] is None:
        return None
    if node.op_type == "Gather":
        source, entry = node.inputs[0], _number(node.inputs[1])
        if entry is None or source.shape is None or node.inputs[1] is None or node.inputs[1].shape != ():
            return None
        return source, node.attributes.get_int("axis", 0) % len(source.shape), entry
    inner = node.inputs[0].producer() if node.op_type == "Squeeze" else None
    source = inner.inputs[0] if inner is not None else None
    if inner is None or source is None or source.shape is None or len(source.shape) != 5:
        return None
    axis = _squeezed(node, 5)
    if inner.op_type == "Slice" and len(inner.inputs) > 3:
        start, stop, along = (_number(given) for given in inner.inputs[1:4])
        step = _number(inner.inputs[4]) if len(inner.inputs) > 4 else 1
        if start is None or stop != start + 1 or step != 1 or along is None or along % 5 != axis or start < 0:
            return None
        return source, along % 5, start
    if inner.op_type == "Split" and inner.attributes.get_int("axis", 0) % 5 == axis:
        if axis is None or len(inner.outputs) != source.shape[axis]:
            return None
        return source, axis, list(inner.outputs).index(node.inputs[0])
    return None


def _squeezed(node: ir.Node, rank: int) -> int | None:
    axis = _number(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if axis is None else axis % rank


def _number(value: ir.Value | None) -> int | None:
    tensor = value.const_value if value is not None else None
    return int(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _order(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", []))


class FlatHeads:
    """Makes the flat form of the queries, keys and values of a graph; a projection is split once.

    Args:
        model: the graph, in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._constants = Constants(model)
        self._splits: dict[int, list[ir.Value]] = {}
        self._known: dict[int, ir.Value] = {}

    def of(self, value: ir.Value, before: ir.Node) -> ir.Value | None:
        """(rows, tokens, heads * features) of (rows, heads, tokens, features); None where no value of the graph has it.

        Args:
            value: as the graph's own attention takes it.
            before: new nodes are inserted before this node.
        """
        if id(value) in self._known:
            return self._known[id(value)]
        node = value.producer()
        if node is not None and node.op_type == "RotaryEmbedding" and node.domain == "" and node.inputs[0] is not None:
            rotated = self._rotated(node, before)
            if rotated is not None:
                self._known[id(value)] = rotated
            return rotated
        flat = flat_of(value)
        if flat is None or flat.parts == 1:
            return flat.whole if flat is not None else None
        return self._part(flat, value)

    def merged(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """The same for any value: its heads are concatenated again, which copies it."""
        import onnx_ir as ir

        if id(value) in self._known:
            return self._known[id(value)]
        assert value.shape is not None
        rows, heads, tokens, features = value.shape
        tape = ir.tape.Tape()
        width = int(heads) * int(features)
        shape = self._constants.of(np.array([0, 0, width]))
        out = tape.op("Reshape", [tape.op("Transpose", [value], {"perm": [0, 2, 1, 3]}), shape])
        self._insert(tape, f"{value.name}.flat", before)
        out.shape, out.type = ir.Shape([rows, tokens, width]), value.type
        self._known[id(value)] = out
        return out

    def _rotated(self, node: ir.Node, before: ir.Node) -> ir.Value | None:
        """The operator takes flat heads as well, with their number as an attribute."""
        import onnx_ir as ir

        given, shape = node.inputs[0], node.inputs[0].shape if node.inputs[0] is not None else None
        source = self.of(given, before) if given is not None else None
        if source is None or shape is None or not isinstance(shape[1], int):
            return None
        attributes = {name: whole.value for name, whole in node.attributes.items()} | {"num_heads": shape[1]}
        new = ir.node("RotaryEmbedding", [source, *node.inputs[1:]], attributes, name=f"{node.name}.flat")
        out = new.outputs[0]
        out.name, out.shape, out.type = f"{node.outputs[0].name}.flat", source.shape, source.type
        self._model.graph.insert_after(node, new)
        return out

    def _part(self, flat: Flat, value: ir.Value) -> ir.Value:
        import onnx_ir as ir

        if id(flat.whole) not in self._splits:
            assert value.shape is not None and flat.whole.shape is not None
            width = int(value.shape[1]) * int(value.shape[3])
            require_opset(self._model, 13)
            widths = self._constants.of(np.array([width] * flat.parts))
            node = ir.node("Split", [flat.whole, widths], {"axis": 2}, num_outputs=flat.parts,
                           name=f"{flat.whole.name}.parts")  # fmt: skip
            for index, out in enumerate(node.outputs):
                out.name, out.type = f"{flat.whole.name}.part_{index}", flat.whole.type
                out.shape = ir.Shape([*flat.whole.shape[:2], width])
            maker = flat.whole.producer()
            if maker is not None:
                self._model.graph.insert_after(maker, node)
            else:
                self._model.graph.insert_before(self._model.graph[0], node)
            self._splits[id(flat.whole)] = list(node.outputs)
        return self._splits[id(flat.whole)][flat.part]

    def _insert(self, tape: ir.tape.Tape, name: str, before: ir.Node) -> None:
        for index, node in enumerate(tape.nodes):
            node.name = node.outputs[0].name = f"{name}_{index}"
        self._model.graph.insert_before(before, tape.nodes)
