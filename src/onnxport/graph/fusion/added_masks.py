"""The masks of an attention as inputs of com.microsoft's operators: lengths of rows, or what is added to the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.fusion.attention_layers import NotFusedError, are_same_sizes, require_opset
from onnxport.graph.fusion.encoder_mask import MaskReader
from onnxport.graph.fusion.packed_projection import Constants

if TYPE_CHECKING:
    import onnx_ir as ir

LOWEST = float(np.finfo(np.float32).min)


class Masks:
    """The inputs that masks of a graph become; each is computed once.

    Args:
        model: the graph, in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self.reader = MaskReader(model)
        self._model = model
        self._constants = Constants(model)
        self._made: dict[tuple[str, ...], ir.Value] = {}

    def padding(self, source: ir.Value) -> ir.Value:
        """(rows, tokens) int32, 1 for tokens that are seen."""
        import onnx_ir as ir

        key = ("padding", str(id(source)))
        if key not in self._made:
            tape = ir.tape.Tape()
            value = tape.op("Cast", [tape.op("Cast", [source], {"to": ir.DataType.BOOL})], {"to": ir.DataType.INT32})
            self._made[key] = self._first(tape, value, f"{source.name}.seen")
        return self._made[key]

    def with_tokens(self, source: ir.Value) -> ir.Value:
        """(rows, 1, 1) float32, 0 for rows that are padding alone, else 1."""
        import onnx_ir as ir

        key = ("rows", str(id(source)))
        if key not in self._made:
            require_opset(self._model, 13)
            tape = ir.tape.Tape()
            axes = self._constants.of(np.array([1]))
            seen = self.padding(source)
            if (self._model.opset_imports.get("") or 0) < 18:
                most = tape.op("ReduceMax", [seen], {"axes": [1], "keepdims": 1})
            else:
                most = tape.op("ReduceMax", [seen, axes], {"keepdims": 1})
            value = tape.op("Unsqueeze", [tape.op("Cast", [most], {"to": ir.DataType.FLOAT}), axes])
            before = seen.producer()
            self._made[key] = self._first(tape, value, f"{source.name}.rows", after=before)
        return self._made[key]

    def added(self, masks: list[ir.Value], query: ir.Value, key: ir.Value, before: ir.Node) -> ir.Value:
        """The masks as one that is added to the scores: (rows or 1, heads or 1, tokens, key tokens) float32.

        Scores that a mask of bool hides get the lowest number of float32 instead of their sum with other masks.

        Args:
            masks: bool or float32; broadcast to the scores.
            query, key: (rows, heads, tokens, features).
            before: new nodes are inserted before this node.

        Raises:
            NotFusedError: the shape of a mask is not known to be one that is broadcast to the scores.
        """
        import onnx_ir as ir

        if query.shape is None or key.shape is None:
            raise NotFusedError("the shape of queries or keys is not known")
        require_opset(self._model, 15)
        scores = [*query.shape[:3], key.shape[2]]
        shape = _broadcast([_four(mask) for mask in masks], scores)
        made = ("added", *(str(id(mask)) for mask in masks), *(str(size) for size in scores[2:]))
        if made in self._made:
            return self._made[made]
        tape = ir.tape.Tape()
        seen = [mask for mask in masks if mask.dtype == ir.DataType.BOOL]
        numbers = [mask for mask in masks if mask.dtype == ir.DataType.FLOAT]
        if len(seen) + len(numbers) < len(masks):
            raise NotFusedError("a mask is neither bool nor float32")
        whole = numbers[0] if numbers else self._constants.of(np.float32(0))
        for other in numbers[1:]:
            whole = tape.op("Add", [whole, other])
        for mask in seen:
            whole = tape.op("Where", [mask, whole, self._constants.of(np.float32(LOWEST))])
        rank = max(len(mask.shape or ()) for mask in masks)
        if rank < 4:
            whole = tape.op("Unsqueeze", [whole, self._constants.of(np.arange(4 - rank))])
        if not are_same_sizes(shape[2:], scores[2:]):
            whole = tape.op("Expand", [whole, self._sizes(tape, query, key)])
            shape = [*shape[:2], *scores[2:]]
        if tape.nodes:
            _name(tape, whole, f"{masks[0].name}.added_{len(self._made)}")
            whole.shape, whole.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
            self._model.graph.insert_before(before, tape.nodes)
        self._made[made] = whole
        return whole

    def kept_rows(self, condition: ir.Value, result: ir.Value, before: ir.Node) -> ir.Value:
        """`result` (rows, tokens, features), with zeros where `condition` (rows, 1, tokens, 1) is true.

        Raises:
            NotFusedError: heads differ in what is zero, or the condition has another shape.
        """
        import onnx_ir as ir

        shape = condition.shape
        if shape is None or len(shape) != 4 or shape[1] != 1 or shape[3] != 1:
            raise NotFusedError("rows of the result are replaced by zeros under a condition that differs between heads")
        require_opset(self._model, 13)
        key = ("zeroed", str(id(condition)))
        tape = ir.tape.Tape()
        if key not in self._made:
            self._made[key] = tape.op("Squeeze", [condition, self._constants.of(np.array([1]))])
        zero = self._constants.of(np.float32(0))
        whole = tape.op("Where", [self._made[key], zero, result])
        _name(tape, whole, f"{result.name}.zeroed")
        self._model.graph.insert_before(before, tape.nodes)
        return whole

    def _sizes(self, tape: ir.tape.Tape, query: ir.Value, key: ir.Value) -> ir.Value:
        """(1, 1, tokens, key tokens), to which a mask is expanded."""
        lengths = [tape.op("Shape", [value], {"start": 2, "end": 3}) for value in (query, key)]
        return tape.op("Concat", [self._constants.of(np.array([1, 1])), *lengths], {"axis": 0})

    def _first(self, tape: ir.tape.Tape, value: ir.Value, name: str, after: ir.Node | None = None) -> ir.Value:
        """Insert nodes where all layers can read them."""
        _name(tape, value, name)
        if after is not None:
            self._model.graph.insert_after(after, tape.nodes)
        else:
            self._model.graph.insert_before(self._model.graph[0], tape.nodes)
        return value


def _four(mask: ir.Value) -> list[object]:
    """The shape of a mask with as many axes as the scores."""
    if mask.shape is None or len(mask.shape) > 4:
        raise NotFusedError(f"the shape of the mask {mask.name} is not known")
    return [1] * (4 - len(mask.shape)) + list(mask.shape)


def _broadcast(shapes: list[list[object]], scores: list[object]) -> list[object]:
    """The shape of the masks together, each of which is broadcast to the scores.

    Raises:
        NotFusedError: it is known that one is not.
    """
    found: list[object] = []
    for axis, size in enumerate(scores):
        sizes = [shape[axis] for shape in shapes if shape[axis] != 1]
        wrong = [one for one in sizes if isinstance(one, int) and isinstance(size, int) and one != size]
        if wrong:
            raise NotFusedError(f"axis {axis} of the mask has the size {wrong[0]}, and that of the scores {size}")
        equal = [one for one in sizes if are_same_sizes([one], [size])]
        found.append((equal or sizes or [1])[0])
    return found


def _name(tape: ir.tape.Tape, value: ir.Value, name: str) -> None:
    for index, node in enumerate(tape.nodes):
        node.name = f"{name}_{index}"
        for out in node.outputs:
            out.name = name if out is value else f"{name}_{index}"
