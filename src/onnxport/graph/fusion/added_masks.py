"""The masks of an attention as inputs of com.microsoft's operators: lengths of rows, or what is added to the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.fusion.attention_layers import NotFusedError
from onnxport.graph.fusion.encoder_mask import MaskReader
from onnxport.graph.fusion.packed_projection import register_weight

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
            tape = ir.tape.Tape()
            axes = self._constant(f"{source.name}.tokens", np.array([1]))
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
        scores = [*query.shape[:3], key.shape[2]]
        names = tuple(str(id(mask)) for mask in masks)
        if ("added", *names) in self._made:
            return self._made["added", *names]
        shape = _broadcast([_four(mask) for mask in masks], scores)
        tape = ir.tape.Tape()
        seen = [mask for mask in masks if mask.dtype == ir.DataType.BOOL]
        numbers = [mask for mask in masks if mask.dtype == ir.DataType.FLOAT]
        if len(seen) + len(numbers) < len(masks):
            raise NotFusedError("a mask is neither bool nor float32")
        whole = numbers[0] if numbers else self._constant("mask.zero", np.float32(0))
        for other in numbers[1:]:
            whole = tape.op("Add", [whole, other])
        for mask in seen:
            whole = tape.op("Where", [mask, whole, self._constant("mask.lowest", np.float32(LOWEST))])
        rank = max(len(mask.shape or ()) for mask in masks)
        if rank < 4:
            whole = tape.op("Unsqueeze", [whole, self._constant(f"mask.front_{rank}", np.arange(4 - rank))])
        if [str(size) for size in shape[2:]] != [str(size) for size in scores[2:]]:
            whole = tape.op("Expand", [whole, self._sizes(tape, query, key)])
            shape = [*shape[:2], *scores[2:]]
        if tape.nodes:
            _name(tape, whole, f"{masks[0].name}.added_{len(self._made)}")
            whole.shape, whole.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
            self._model.graph.insert_before(before, tape.nodes)
        self._made["added", *names] = whole
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
        key = ("zeroed", str(id(condition)))
        tape = ir.tape.Tape()
        if key not in self._made:
            axes = self._constant("mask.heads", np.array([1]))
            self._made[key] = tape.op("Squeeze", [condition, axes])
        zero = self._constant("mask.zero", np.float32(0))
        whole = tape.op("Where", [self._made[key], zero, result])
        _name(tape, whole, f"{result.name}.zeroed")
        self._model.graph.insert_before(before, tape.nodes)
        return whole

    def _sizes(self, tape: ir.tape.Tape, query: ir.Value, key: ir.Value) -> ir.Value:
        """(1, 1, tokens, key tokens), to which a mask is expanded."""
        lengths = [tape.op("Shape", [value], {"start": 2, "end": 3}) for value in (query, key)]
        return tape.op("Concat", [self._constant("mask.ones", np.array([1, 1])), *lengths], {"axis": 0})

    def _constant(self, name: str, array: np.ndarray | np.float32) -> ir.Value:
        import onnx_ir as ir

        known = self._model.graph.initializers.get(name)
        if known is not None:
            return known
        return register_weight(self._model, name, ir.tensor(np.asarray(array), name=name))

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
    if mask.shape is None or len(mask.shape) > 4 or any(str(size) == "None" for size in mask.shape):
        raise NotFusedError(f"the shape of the mask {mask.name} is not known")
    return [1] * (4 - len(mask.shape)) + list(mask.shape)


def _broadcast(shapes: list[list[object]], scores: list[object]) -> list[object]:
    """The shape of the masks together, each of which is broadcast to the scores."""
    found = []
    for axis, size in enumerate(scores):
        sizes = {str(shape[axis]): shape[axis] for shape in shapes if shape[axis] != 1}
        if set(sizes) - {str(size)}:
            raise NotFusedError(
                f"the mask's axis {axis} is {', '.join(sizes)}, which is not known to be {size}, as that of the scores"
            )
        found.append(size if sizes else 1)
    return found


def _name(tape: ir.tape.Tape, value: ir.Value, name: str) -> None:
    for index, node in enumerate(tape.nodes):
        node.name = f"{name}_{index}"
        for out in node.outputs:
            out.name = name if out is value else f"{name}_{index}"
