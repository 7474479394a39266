"""Find the attention layers of a decoder's graph, in any of the forms that exporters write.

A layer is either ONNX's Attention, with the cache as inputs or concatenated before it, or the products and softmax that
a model with capped scores (softcap) is exported as.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxport.tensor_names import is_past

if TYPE_CHECKING:
    import onnx_ir as ir

_MOVES = ("Transpose", "Reshape", "Expand", "Unsqueeze", "Identity")


class NotFusedError(Exception):
    """The attention of a graph cannot be fused.

    Args:
        reason: why, as a clause: "query heads are not concatenated on one axis".
        layer: number of the attention layer, or None for the whole graph.
    """

    def __init__(self, reason: str, layer: int | None = None) -> None:
        where = "" if layer is None else f" in layer {layer}"
        super().__init__(f"Cannot fuse attention{where}: {reason}")
        self.reason, self.layer = reason, layer


@contextmanager
def in_layer(number: int) -> Iterator[None]:
    """Add the number of a layer to errors that do not name one.

    Args:
        number: of the layer, from 0.

    Raises:
        NotFusedError: with the layer's number.
    """
    try:
        yield
    except NotFusedError as error:
        if error.layer is not None:
            raise
        raise NotFusedError(error.reason, number) from error.__cause__


@dataclass
class Layer:
    """One attention layer with a cache.

    Attributes:
        query: (rows, heads, tokens, features), after rotation.
        key: new keys, (rows, key heads, tokens, features).
        value: new values, (rows, key heads, tokens, features).
        past: cached keys and values, inputs of the graph.
        present: the same with the new tokens, outputs of the graph.
        mask: the mask, or None.
        output: the result, (rows, tokens, heads * features) or (rows * tokens, heads * features).
        scale: factor of the scores.
        softcap: c in c * tanh(scores / c); 0.0 is none.
        zeroed: conditions under which rows of the result are replaced by zeros.
        number: number of the layer, from 0.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    past: tuple[ir.Value, ir.Value]
    present: tuple[ir.Value, ir.Value]
    mask: ir.Value | None
    output: ir.Value
    scale: float
    softcap: float = 0.0
    zeroed: list[ir.Value] = field(default_factory=list)
    number: int = 0

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return size_of(self.query, 1)

    @property
    def key_heads(self) -> int:
        """Number of key and value heads."""
        return size_of(self.key, 1)

    @property
    def features(self) -> int:
        """Features of a head."""
        return size_of(self.query, 3)


def find_layers(model: ir.Model) -> list[Layer]:
    """Find all attention layers. Every cache input of the graph must belong to one of them.

    Args:
        model: the graph of a decoder.

    Raises:
        NotFusedError: a cache input belongs to no layer that can be fused, or a layer has an unknown form.
    """
    layers: list[Layer] = []
    for node in model.graph:
        with in_layer(len(layers)):
            layer = _layer_at(node)
        if layer is not None:
            layer.number = len(layers)
            layers.append(layer)
    caches = {str(value.name) for value in model.graph.inputs if is_past(str(value.name))}
    cached = [str(past.name) for layer in layers for past in layer.past]
    if not caches:
        raise NotFusedError("the graph has no KV cache")
    if len(cached) != len(set(cached)):
        raise NotFusedError("several layers share a cache")
    if caches - set(cached):
        raise NotFusedError(f"the cache input {min(caches - set(cached))} belongs to no attention of a known form")
    for layer in layers:
        with in_layer(layer.number):
            if size_of(layer.value, 3) != layer.features or size_of(layer.key, 3) != layer.features:
                raise NotFusedError("queries, keys and values have different numbers of features")
    return layers


def _layer_at(node: ir.Node) -> Layer | None:
    """Return the layer whose attention or softmax is `node`, or None for other nodes."""
    if node.domain != "" or node.op_type not in ("Attention", "Softmax"):
        return None
    return _from_attention(node) if node.op_type == "Attention" else _from_softmax(node)


def _from_attention(node: ir.Node) -> Layer:
    query, key, value = (required(given) for given in node.inputs[:3])
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if node.attributes.get_int("is_causal", 0) or node.attributes.get_int("q_num_heads", 0):
        raise NotFusedError("Attention is used with is_causal or q_num_heads instead of a mask")
    if len(node.inputs) > 4:
        past = required(node.inputs[4]), required(node.inputs[5])
        present = node.outputs[1], node.outputs[2]
    else:
        keys, values = _cache_concat(key), _cache_concat(value)
        key, value = required(keys.inputs[1]), required(values.inputs[1])
        past = required(keys.inputs[0]), required(values.inputs[0])
        present = keys.outputs[0], values.outputs[0]
    scale = node.attributes.get_float("scale", size_of(query, 3) ** -0.5)
    softcap = node.attributes.get_float("softcap", 0.0)
    zeroed: list[ir.Value] = []
    output = concatenated_heads(node.outputs[0], zeroed)
    return Layer(query, key, value, past, present, mask, output, scale, softcap, zeroed)


def _from_softmax(node: ir.Node) -> Layer | None:
    """Return the layer of a softmax, or None for a softmax without a cache, for example that of an expert router."""
    product = _only_user(node.outputs[0], ("MatMul",))
    if product is None or product.inputs[0] is not node.outputs[0]:
        return None
    try:
        values = _cache_concat(required(product.inputs[1]))
    except NotFusedError:
        return None
    score, mask, before, after, capped = required(node.inputs[0]), None, 1.0, 1.0, False
    while (producer := score.producer()) is not None and producer.op_type != "MatMul":
        first = required(producer.inputs[0])
        number = scalar(producer.inputs[1]) if len(producer.inputs) > 1 else None
        if producer.op_type == "Add" and mask is None and not capped and number is None and before == 1.0:
            mask = required(producer.inputs[1])
        elif producer.op_type in ("Mul", "Div") and number:
            factor = number if producer.op_type == "Mul" else 1 / number
            before *= factor
        elif producer.op_type == "Tanh" and not capped:
            before, after, capped = 1.0, before, True
        else:
            raise NotFusedError(f"scores pass through the operator {producer.op_type}")
        score = first
    if producer is None:
        raise NotFusedError("scores are not a product of queries and keys")
    keys = _cache_concat(required(producer.inputs[1]))
    zeroed: list[ir.Value] = []
    output = concatenated_heads(product.outputs[0], zeroed)
    return Layer(
        required(producer.inputs[0]), required(keys.inputs[1]), required(values.inputs[1]),
        (required(keys.inputs[0]), required(values.inputs[0])), (keys.outputs[0], values.outputs[0]), mask, output,
        before * after if capped else before, after if capped else 0.0, zeroed,
    )  # fmt: skip


def _cache_concat(value: ir.Value) -> ir.Node:
    """Return the Concat of past and new tokens behind `value`, which may be repeated for groups of heads.

    Which head gets which copy is not examined: an error there shows when the fused graph is compared with the original.
    """
    node = value.producer()
    while node is not None and node.op_type in _MOVES:
        value = required(node.inputs[0])
        node = value.producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2 or not value.is_graph_output():
        raise NotFusedError("keys or values do not come from the KV cache")
    past = node.inputs[0]
    if past is None or not past.is_graph_input() or node.attributes.get_int("axis", 0) not in (2, -2):
        raise NotFusedError("keys or values do not come from the KV cache")
    return node


def concatenated_heads(value: ir.Value, zeroed: list[ir.Value]) -> ir.Value:
    """Follow (rows, heads, tokens, features) to the value in which the heads are concatenated on one axis.

    Args:
        value: the result of the attention.
        zeroed: conditions of `Where` nodes on the way are appended.
    """
    heads, features = size_of(value, 1), size_of(value, 3)
    transposed = False
    while (node := _only_user(value, ("Where", "Reshape", "Transpose", "Identity"))) is not None:
        result = node.outputs[0]
        if node.op_type == "Where" and node.inputs[2] is value and scalar(node.inputs[1]) == 0 and not transposed:
            zeroed.append(required(node.inputs[0]))
        elif (
            node.op_type == "Transpose"
            and list(node.attributes.get_ints("perm", [])) == [0, 2, 1, 3]
            and not transposed
        ):
            transposed = True
        elif node.op_type == "Reshape" and transposed and result.shape is not None and len(result.shape) in (2, 3):
            if size_of(result, -1) == heads * features:
                return result
            break
        elif node.op_type != "Identity" and not (node.op_type == "Reshape" and result.shape == value.shape):
            break
        value = result
    raise NotFusedError("query heads are not concatenated on one axis")


def _only_user(value: ir.Value, kinds: tuple[str, ...]) -> ir.Node | None:
    users = value.consumers()
    fits = len(users) == 1 and users[0].op_type in kinds and not value.is_graph_output()
    return users[0] if fits else None


def required(value: ir.Value | None) -> ir.Value:
    """The value, which must be there.

    Raises:
        NotFusedError: it is not.
    """
    if value is None:
        raise NotFusedError("an input of the attention is missing")
    return value


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds; None for everything else."""
    tensor = value.const_value if value is not None else None
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def size_of(value: ir.Value, axis: int) -> int:
    """The size of an axis.

    Raises:
        NotFusedError: it is not known.
    """
    size = value.shape[axis] if value.shape is not None and -len(value.shape) <= axis < len(value.shape) else None
    if not isinstance(size, int):
        raise NotFusedError(f"axis {axis} of {value.name} has no known size")
    return size


def are_same_sizes(one: Iterable[object], other: Iterable[object]) -> bool:
    """Whether sizes are known to be equal: equal numbers, or axes of one name.

    Args:
        one, other: as many sizes.
    """
    pairs = list(zip(one, other, strict=True))
    return all(left == right and getattr(left, "value", left) is not None for left, right in pairs)


def require_opset(model: ir.Model, lowest: int) -> None:
    """Check that a graph can have the operators that a fusion adds, in the form in which it writes them.

    Raises:
        NotFusedError: its opset is older than `lowest`.
    """
    opset = model.opset_imports.get("") or 1
    if opset < lowest:
        raise NotFusedError(f"the graph has opset {opset}, and the new operators need opset {lowest}")
