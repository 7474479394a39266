"""The attention layers of a decoder's graph: which values meet in them, however they are written.

Either ONNX's Attention, with the cache as its inputs or joined before it, or the products and the
softmax that a model with capped scores is exported as.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxport.tensor_names import is_past

if TYPE_CHECKING:
    import onnx_ir as ir

_MOVES = ("Transpose", "Reshape", "Expand", "Unsqueeze", "Identity")


class NotFusedError(Exception):
    """Why a graph's attention stays as it is."""


@dataclass
class Layer:
    """One attention over a cache.

    Attributes:
        query: (rows, heads, tokens, features), as it meets the keys.
        key, value: the new ones, (rows, key heads, tokens, features).
        past, present: the cache, keys and values.
        mask: what hides tokens, or None.
        output: the result, (rows, tokens, heads * features) or (rows * tokens, heads * features).
        empty: conditions under which rows of the result are zeros.
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
    empty: list[ir.Value] = field(default_factory=list)

    @property
    def heads(self) -> int:
        return _size(self.query, 1)

    @property
    def key_heads(self) -> int:
        return _size(self.key, 1)

    @property
    def features(self) -> int:
        return _size(self.query, 3)


def find_layers(model: ir.Model) -> list[Layer]:
    """All attention layers; together they have all states of the graph.

    Raises:
        NotFusedError: a state that no such layer has, or a layer that is written another way.
    """
    layers = []
    for node in model.graph:
        if node.op_type == "Attention" and node.domain == "":
            layers.append(_from_attention(node))
        elif node.op_type == "Softmax" and node.domain == "":
            layer = _from_softmax(node)
            if layer is not None:
                layers.append(layer)
    states = {str(value.name) for value in model.graph.inputs if is_past(str(value.name))}
    held = [str(past.name) for layer in layers for past in layer.past]
    if not states:
        raise NotFusedError("it has no cache")
    if len(held) != len(set(held)):
        raise NotFusedError("layers share a cache")
    if states - set(held):
        raise NotFusedError(f"the state {min(states - set(held))} is none of an attention that is known here")
    for layer in layers:
        if _size(layer.value, 3) != layer.features or _size(layer.key, 3) != layer.features:
            raise NotFusedError("its values have another size than its keys")
    return layers


def _from_attention(node: ir.Node) -> Layer:
    query, key, value = (_needed(given) for given in node.inputs[:3])
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if node.attributes.get_int("is_causal", 0) or node.attributes.get_int("q_num_heads", 0):
        raise NotFusedError("an Attention hides tokens without a mask")
    if len(node.inputs) > 4:
        past = _needed(node.inputs[4]), _needed(node.inputs[5])
        present = node.outputs[1], node.outputs[2]
    else:
        keys, values = _cache(key), _cache(value)
        key, value = _needed(keys.inputs[1]), _needed(values.inputs[1])
        past = _needed(keys.inputs[0]), _needed(values.inputs[0])
        present = keys.outputs[0], values.outputs[0]
    scale = node.attributes.get_float("scale", _size(query, 3) ** -0.5)
    softcap = node.attributes.get_float("softcap", 0.0)
    empty: list[ir.Value] = []
    output = _merged(node.outputs[0], empty)
    return Layer(query, key, value, past, present, mask, output, scale, softcap, empty)


def _from_softmax(node: ir.Node) -> Layer | None:
    """None for a softmax that has nothing to do with a cache: that of experts, for example."""
    product = _only_user(node.outputs[0], ("MatMul",))
    if product is None or product.inputs[0] is not node.outputs[0]:
        return None
    try:
        values = _cache(_needed(product.inputs[1]))
    except NotFusedError:
        return None
    score, mask, before, after, capped = _needed(node.inputs[0]), None, 1.0, 1.0, False
    while (producer := score.producer()) is not None and producer.op_type != "MatMul":
        first = _needed(producer.inputs[0])
        number = _scalar(producer.inputs[1]) if len(producer.inputs) > 1 else None
        if producer.op_type == "Add" and mask is None and not capped and number is None and before == 1.0:
            mask = _needed(producer.inputs[1])
        elif producer.op_type in ("Mul", "Div") and number:
            factor = number if producer.op_type == "Mul" else 1 / number
            before *= factor
        elif producer.op_type == "Tanh" and not capped:
            before, after, capped = 1.0, before, True
        else:
            raise NotFusedError(f"its scores go through {producer.op_type}")
        score = first
    if producer is None:
        raise NotFusedError("its scores are no product of queries and keys")
    keys = _cache(_needed(producer.inputs[1]))
    empty: list[ir.Value] = []
    output = _merged(product.outputs[0], empty)
    return Layer(
        _needed(producer.inputs[0]), _needed(keys.inputs[1]), _needed(values.inputs[1]),
        (_needed(keys.inputs[0]), _needed(values.inputs[0])), (keys.outputs[0], values.outputs[0]), mask, output,
        before * after if capped else before, after if capped else 0.0, empty,
    )  # fmt: skip


def _cache(value: ir.Value) -> ir.Node:
    """The Concat of past and new tokens that `value` repeats for groups of heads.

    Which head gets which copy is not looked at: the comparison with the graph shows that.
    """
    node = value.producer()
    while node is not None and node.op_type in _MOVES:
        value = _needed(node.inputs[0])
        node = value.producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2 or not value.is_graph_output():
        raise NotFusedError("its keys or values are not its cache")
    past = node.inputs[0]
    if past is None or not past.is_graph_input() or node.attributes.get_int("axis", 0) not in (2, -2):
        raise NotFusedError("its keys or values are not its cache")
    return node


def _merged(value: ir.Value, empty: list[ir.Value]) -> ir.Value:
    """The heads side by side: what follows (rows, heads, tokens, features); `empty` gets conditions on the way."""
    heads, features = _size(value, 1), _size(value, 3)
    turned = False
    while (node := _only_user(value, ("Where", "Reshape", "Transpose", "Identity"))) is not None:
        result = node.outputs[0]
        if node.op_type == "Where" and node.inputs[2] is value and _scalar(node.inputs[1]) == 0 and not turned:
            empty.append(_needed(node.inputs[0]))
        elif node.op_type == "Transpose" and list(node.attributes.get_ints("perm", [])) == [0, 2, 1, 3] and not turned:
            turned = True
        elif node.op_type == "Reshape" and turned and result.shape is not None and len(result.shape) in (2, 3):
            if _size(result, -1) == heads * features:
                return result
            break
        elif node.op_type != "Identity" and not (node.op_type == "Reshape" and result.shape == value.shape):
            break
        value = result
    raise NotFusedError("its heads are not put side by side")


def _only_user(value: ir.Value, kinds: tuple[str, ...]) -> ir.Node | None:
    users = value.consumers()
    fits = len(users) == 1 and users[0].op_type in kinds and not value.is_graph_output()
    return users[0] if fits else None


def _needed(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise NotFusedError("an input of its attention is left out")
    return value


def _scalar(value: ir.Value | None) -> float | None:
    tensor = value.const_value if value is not None else None
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _size(value: ir.Value, axis: int) -> int:
    size = value.shape[axis] if value.shape is not None and -len(value.shape) <= axis < len(value.shape) else None
    if not isinstance(size, int):
        raise NotFusedError(f"the size of {value.name} is not known")
    return size
