"""Find the self attention of encoders: layers without a cache whose queries, keys and values are products of one input.

    queries, keys, values = data @ weight (+ bias), each split into heads
    output = softmax(scale * queries @ keys' + mask) @ values, heads concatenated

A layer is either ONNX's Attention, or the products and softmax that older opsets and models with their own attention
(T5, MPNet) are exported as.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxport.graph.fusion.attention_layers import NotFusedError, concatenated_heads, required, scalar, size_of
from onnxport.graph.fusion.packed_projection import Linear, before_head_split, linear_of

if TYPE_CHECKING:
    import onnx_ir as ir

_LAST = (-1, 3)


@dataclass
class SelfAttention:
    """One layer.

    Attributes:
        node: the Attention or Softmax that the layer was found by.
        data: what queries, keys and values are products of, (rows, tokens, features).
        linears: of queries, keys and values.
        heads: number of heads.
        scale: factor of the scores.
        masks: what is added to the scores, or bool; broadcast to (rows, heads, tokens, tokens).
        zeroed: conditions under which rows of the result are replaced by zeros.
        output: the result, (rows, tokens, heads * features).
    """

    node: ir.Node
    data: ir.Value
    linears: tuple[Linear, Linear, Linear]
    heads: int
    scale: float
    masks: list[ir.Value]
    output: ir.Value
    zeroed: list[ir.Value] = field(default_factory=list)


@dataclass
class _Scores:
    """Queries and keys of a layer, and what is done with their product."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    result: ir.Value
    scale: float
    masks: list[ir.Value]


def find_self_attention(model: ir.Model) -> tuple[list[SelfAttention], list[str]]:
    """Find the layers of a graph.

    Args:
        model: a float32 graph.

    Returns:
        The layers, and for each attention that is none of them, why.
    """
    layers: list[SelfAttention] = []
    others: list[str] = []
    for node in model.graph:
        if node.domain != "" or node.op_type not in ("Attention", "Softmax"):
            continue
        try:
            scores = _of_attention(node) if node.op_type == "Attention" else _of_softmax(node)
            if scores is not None:
                layers.append(_layer(node, scores))
        except NotFusedError as error:
            others.append(f"{node.name or node.outputs[0].name}: {error.reason}")
    return layers, others


def _layer(node: ir.Node, scores: _Scores) -> SelfAttention:
    import onnx_ir as ir

    heads = size_of(scores.query, 1)
    if scores.query.dtype not in (ir.DataType.FLOAT, None):
        raise NotFusedError("queries are not float32")
    if size_of(scores.key, 1) != heads:
        raise NotFusedError("queries and keys have different numbers of heads")
    zeroed: list[ir.Value] = []
    output = concatenated_heads(scores.result, zeroed)
    if output.shape is None or len(output.shape) != 3:
        raise NotFusedError("the result is not (rows, tokens, features)")
    linears = []
    scale = scores.scale
    for value in (scores.query, scores.key, scores.value):
        value, factor = _without_factor(value)
        flat = before_head_split(value)
        if flat is not None:
            flat, more = _without_factor(flat)
            factor *= more
        found = linear_of(flat) if flat is not None else None
        if found is None or found.data.shape is None or len(found.data.shape) != 3:
            raise NotFusedError("queries, keys or values are not products with a weight, or are changed after it")
        if factor != 1.0 and value is scores.value:
            raise NotFusedError("values are scaled")
        scale *= factor
        linears.append(found)
    query, key, value = linears
    if any(one.data is not query.data for one in linears):
        raise NotFusedError("queries, keys and values are products of different inputs")
    return SelfAttention(node, query.data, (query, key, value), heads, scale, scores.masks, output, zeroed)


def _of_attention(node: ir.Node) -> _Scores:
    if len(node.inputs) > 4 or len(node.outputs) != 1:
        raise NotFusedError("it has a cache")
    whole = node.attributes
    if whole.get_int("is_causal", 0) or whole.get_int("q_num_heads", 0) or whole.get_float("softcap", 0.0):
        raise NotFusedError("it is causal, has capped scores, or its heads are not split")
    query, key, value = (required(given) for given in node.inputs[:3])
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    scale = whole.get_float("scale", size_of(query, 3) ** -0.5)
    return _Scores(query, key, value, node.outputs[0], scale, [] if mask is None else [mask])


def _of_softmax(node: ir.Node) -> _Scores | None:
    """None for a softmax that is no attention: one over labels, for example."""
    users = node.outputs[0].consumers()
    product = users[0] if len(users) == 1 else None
    shape = node.outputs[0].shape
    if product is None or product.op_type != "MatMul" or product.inputs[0] is not node.outputs[0]:
        return None
    if shape is None or len(shape) != 4 or node.attributes.get_int("axis", -1) not in _LAST:
        raise NotFusedError("scores are not (rows, heads, tokens, tokens)")
    score, scale, masks = required(node.inputs[0]), 1.0, []
    while (producer := score.producer()) is not None and producer.op_type != "MatMul":
        if producer.op_type == "Add":
            sides = [required(given) for given in producer.inputs]
            score, mask = sides if _leads_to_product(sides[0]) else sides[::-1]
            if scale != 1.0:
                raise NotFusedError("the sum of scores and mask is scaled")
            masks.append(mask)
        elif producer.op_type in ("Mul", "Div") and (factor := scalar(producer.inputs[1])):
            scale *= factor if producer.op_type == "Mul" else 1 / factor
            score = required(producer.inputs[0])
        else:
            raise NotFusedError(f"scores pass through the operator {producer.op_type}")
    if producer is None:
        raise NotFusedError("scores are not a product of queries and keys")
    query, keys = (required(given) for given in producer.inputs)
    return _Scores(query, _transposed_back(keys), required(product.inputs[1]), product.outputs[0], scale, masks)


def _leads_to_product(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in ("Mul", "Div", "Add"):
        node = next((given.producer() for given in node.inputs if given is not None and given.producer()), None)
    return node is not None and node.op_type == "MatMul"


def _transposed_back(keys: ir.Value) -> ir.Value:
    """(rows, heads, tokens, features) behind (rows, heads, features, tokens).

    Raises:
        NotFusedError: it is not there as a value of the graph.
    """
    node = keys.producer()
    order = list(node.attributes.get_ints("perm", [])) if node is not None and node.op_type == "Transpose" else []
    if node is None or order not in ([0, 1, 3, 2], [0, 2, 3, 1]):
        raise NotFusedError("keys are not transposed for the product")
    if order == [0, 1, 3, 2]:
        return required(node.inputs[0])
    import onnx_ir as ir

    # One Transpose does both; the other order is added, and goes away when the layer is replaced.
    source = required(node.inputs[0])
    split = ir.node("Transpose", [source], {"perm": [0, 2, 1, 3]}, name=f"{node.name}.split")
    split.outputs[0].name = f"{keys.name}.split"
    split.outputs[0].type = keys.type
    if source.shape is not None:
        split.outputs[0].shape = ir.Shape([source.shape[axis] for axis in (0, 2, 1, 3)])
    assert node.graph is not None
    node.graph.insert_before(node, split)
    return split.outputs[0]


def _without_factor(value: ir.Value) -> tuple[ir.Value, float]:
    node = value.producer()
    if node is not None and node.op_type in ("Mul", "Div") and len(node.inputs) == 2:
        factor = scalar(node.inputs[1])
        if factor:
            return required(node.inputs[0]), factor if node.op_type == "Mul" else 1 / factor
    return value, 1.0
