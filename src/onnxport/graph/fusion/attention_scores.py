"""Read an attention that is exported as products and a softmax: what happens to the scores between them.

Each library builds the same attention from other operators. What is read here:

- factors before, between and after what is added;
- a mask that replaces scores by a very low number (`Where`) instead of being added;
- heads that are a part of the rows, (rows * heads, tokens, features), for a while;
- a number that is subtracted from all scores of a query: softmax does not depend on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxport.graph.fusion.attention_layers import NotFusedError, are_same_sizes, required, scalar

if TYPE_CHECKING:
    import onnx_ir as ir

_LAST = (-1, 3)
_LOW = -1e4  # a score that is replaced by this or less is hidden
_SAME = 1e-6  # relative difference of factors that are equal


@dataclass
class Scores:
    """Queries and keys of a layer, and what is done with their product.

    Attributes:
        query, key, value: (rows, heads, tokens, features).
        result: the product of probabilities and values, with heads on the second axis.
        scale: factor of the scores.
        masks: what is added to the scores, or bool.
        read_elsewhere: whether queries or keys are needed for more than this product.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    result: ir.Value
    scale: float
    masks: list[ir.Value]
    read_elsewhere: bool = False


def scores_of_softmax(node: ir.Node, opset: int) -> Scores | None:
    """The attention that a softmax belongs to; None for a softmax that is no attention: one over labels, for example.

    Args:
        node: the softmax.
        opset: of the graph; before 13 the axis of a softmax is 1 unless it is given.

    Raises:
        NotFusedError: an attention of an unknown form.
    """
    probabilities = _through_reshape(node.outputs[0])
    users = probabilities.consumers()
    product = users[0] if len(users) == 1 else None
    if product is None or product.op_type != "MatMul" or product.inputs[0] is not probabilities:
        return None
    shape = node.outputs[0].shape
    if shape is None or len(shape) != 4 or node.attributes.get_int("axis", -1 if opset >= 13 else 1) not in _LAST:
        raise NotFusedError("scores are not (rows, heads, tokens, tokens)")
    found = _Reader(required(node.inputs[0])).read()
    query, keys = (required(given) for given in found.product.inputs)
    shared = _is_read_elsewhere(query) or _is_read_elsewhere(keys)
    key, factor = _transposed_back(keys)
    result = _through_reshape(product.outputs[0])
    values = required(product.inputs[1])
    return Scores(_four(query), _four(key), _four(values), result, found.scale * factor, found.masks, shared)


class _Reader:
    """Goes back from the softmax to the product of queries and keys.

    Attributes:
        product: the MatMul of queries and keys.
        scale: factor of its result.
        masks: what is added to it, or bool; (rows, heads, tokens, tokens).
    """

    def __init__(self, score: ir.Value) -> None:
        self._score = score
        self._factor = 1.0  # of what is further back
        self._reshape: ir.Node | None = None
        self._added: list[tuple[ir.Value, float]] = []
        self._hidden: list[ir.Value] = []

    def read(self) -> _Reader:
        while (node := self._score.producer()) is not None and node.op_type != "MatMul":
            self._step(node)
        if node is None:
            raise NotFusedError("scores are not a product of queries and keys")
        if any(not math.isclose(factor, 1.0, rel_tol=_SAME) for _, factor in self._added):
            raise NotFusedError("the sum of scores and mask is scaled")
        self.product, self.scale = node, self._factor
        self.masks = [*self._hidden, *(mask for mask, _ in self._added)]
        return self

    def _step(self, node: ir.Node) -> None:
        first = required(node.inputs[0])
        factor = scalar(node.inputs[1]) if node.op_type in ("Mul", "Div") else None
        if factor:
            self._factor *= factor if node.op_type == "Mul" else 1 / factor
            self._score = first
        elif node.op_type == "Add":
            sides = [required(given) for given in node.inputs]
            score, mask = sides if _leads_to_product(sides[0]) else sides[::-1]
            self._added.append((self._split(mask), self._factor))
            self._score = score
        elif node.op_type == "Sub" and _is_one_number_for_each_query(node.inputs[1]):
            self._score = first
        elif node.op_type == "Where":
            self._replaced(first, required(node.inputs[1]), required(node.inputs[2]))
        elif node.op_type == "Reshape" and _splits_rows(node) and self._reshape is None:
            self._reshape = node
            self._score = first
        else:
            raise NotFusedError(f"scores pass through the operator {node.op_type}")

    def _replaced(self, condition: ir.Value, one: ir.Value, other: ir.Value) -> None:
        """Go on behind a `Where` that gives hidden scores a low number."""
        hides = scalar(one) is not None
        low = scalar(one if hides else other)
        if low is None or not low * self._factor <= _LOW:
            raise NotFusedError("scores are replaced by something else than a very low number")
        self._hidden.append(self._split(_opposite(condition) if hides else condition))
        self._score = other if hides else one

    def _split(self, mask: ir.Value) -> ir.Value:
        """The mask with an axis of heads, as the scores have behind the reshape."""
        import onnx_ir as ir

        if self._reshape is None:
            return mask
        scores = required(self._reshape.inputs[0]).shape
        if mask.shape is None or scores is None or len(mask.shape) != 3 or not are_same_sizes(mask.shape, scores):
            raise NotFusedError("the mask is not (rows * heads, tokens, tokens), as the scores are")
        return _inserted("Reshape", [mask, required(self._reshape.inputs[1])], self._reshape,
                         ir.Shape(self._reshape.outputs[0].shape or ()), mask.type)  # fmt: skip


def without_factor(value: ir.Value) -> tuple[ir.Value, float]:
    """What is multiplied with or divided by a constant, and the factor; the value itself and 1.0 otherwise."""
    node = value.producer()
    if node is not None and node.op_type in ("Mul", "Div") and len(node.inputs) == 2:
        factor = scalar(node.inputs[1])
        if factor:
            return required(node.inputs[0]), factor if node.op_type == "Mul" else 1 / factor
    return value, 1.0


def _is_read_elsewhere(operand: ir.Value) -> bool:
    """Whether an operand of the product, or what it is reordered from, has a second reader."""
    while len(operand.uses()) == 1 and not operand.is_graph_output():
        node = operand.producer()
        if node is None or node.op_type not in ("Transpose", "Reshape", "Mul", "Div"):
            return False
        operand = required(node.inputs[0])
    return True


def _leads_to_product(value: ir.Value) -> bool:
    """Whether scores come from here: from a product of two computed values."""
    node = value.producer()
    while node is not None and node.op_type in ("Mul", "Div", "Add", "Sub", "Reshape"):
        node = next((given.producer() for given in node.inputs if given is not None and given.producer()), None)
    return node is not None and node.op_type == "MatMul"


def _is_one_number_for_each_query(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 4 and value.shape[3] == 1


def _opposite(condition: ir.Value) -> ir.Value:
    """The condition under which scores are seen, from the one under which they are hidden."""
    node = condition.producer()
    if node is not None and node.op_type == "Not":
        return required(node.inputs[0])
    known = [user.outputs[0] for user in condition.consumers() if user.op_type == "Not"]
    if known:
        return known[0]
    if node is None:
        raise NotFusedError("the mask is no value that the graph computes")
    import onnx_ir as ir

    seen = ir.node("Not", [condition], name=f"{condition.name}.seen")
    seen.outputs[0].name, seen.outputs[0].type, seen.outputs[0].shape = seen.name, condition.type, condition.shape
    assert node.graph is not None
    node.graph.insert_after(node, seen)
    return seen.outputs[0]


def _splits_rows(node: ir.Node) -> bool:
    """Whether a reshape makes (rows, heads, a, b) of (rows * heads, a, b)."""
    before, after = required(node.inputs[0]).shape, node.outputs[0].shape
    return (
        before is not None and after is not None and len(before) == 3 and len(after) == 4
        and are_same_sizes(before[1:], after[2:])
    )  # fmt: skip


def _merges_rows(node: ir.Node) -> bool:
    before, after = required(node.inputs[0]).shape, node.outputs[0].shape
    return (
        before is not None and after is not None and len(before) == 4 and len(after) == 3
        and are_same_sizes(before[2:], after[1:])
    )  # fmt: skip


def _through_reshape(value: ir.Value) -> ir.Value:
    """Behind a reshape of heads into rows, or back."""
    users = value.consumers()
    if len(users) == 1 and users[0].op_type == "Reshape" and (_splits_rows(users[0]) or _merges_rows(users[0])):
        return users[0].outputs[0]
    return value


def _four(value: ir.Value) -> ir.Value:
    """(rows, heads, tokens, features), where the heads are a part of the rows.

    Raises:
        NotFusedError: it is not there as a value of the graph.
    """
    if value.shape is not None and len(value.shape) == 3:
        node = value.producer()
        if node is None or node.op_type != "Reshape" or not _merges_rows(node):
            raise NotFusedError("heads are not split from the rows")
        return required(node.inputs[0])
    return value


def _transposed_back(keys: ir.Value) -> tuple[ir.Value, float]:
    """(rows, heads, tokens, features) behind (rows, heads, features, tokens), and the factor of the keys.

    Raises:
        NotFusedError: it is not there as a value of the graph.
    """
    import onnx_ir as ir

    keys, factor = without_factor(keys)
    node = keys.producer()
    order = list(node.attributes.get_ints("perm", [])) if node is not None and node.op_type == "Transpose" else []
    if node is None or order not in ([0, 1, 3, 2], [0, 2, 3, 1], [0, 2, 1]):
        raise NotFusedError("keys are not transposed for the product")
    source = required(node.inputs[0])
    if order != [0, 2, 3, 1]:
        return source, factor
    # One Transpose does both; the other order is added, and goes away when the layer is replaced.
    shape = ir.Shape([source.shape[axis] for axis in (0, 2, 1, 3)]) if source.shape is not None else None
    return _inserted("Transpose", [source], node, shape, keys.type, perm=[0, 2, 1, 3]), factor


def _inserted(
    kind: str, inputs: list[ir.Value], before: ir.Node, shape: ir.Shape | None, type_: ir.TypeProtocol | None,
    **attributes: list[int],
) -> ir.Value:  # fmt: skip
    """A new value of the graph."""
    import onnx_ir as ir

    node = ir.node(kind, inputs, attributes, name=f"{inputs[0].name}.{before.outputs[0].name}")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = node.name, shape, type_
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return node.outputs[0]
