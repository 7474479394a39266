"""Find the attention of encoders, and of encoder-decoders: layers whose operator has no cache of its own.

    output = softmax(scale * queries @ keys' + masks) @ values, heads concatenated

A layer is either ONNX's Attention, or the products and softmax that older opsets and models with their own attention
(T5, MPNet, DeBERTa, LayoutLMv3) are exported as.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxport.graph.fusion.attention_layers import (
    NotFusedError,
    are_same_sizes,
    concatenated_heads,
    required,
    size_of,
)
from onnxport.graph.fusion.attention_scores import Scores, scores_of_softmax, without_factor

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass
class EncoderAttention:
    """One layer.

    Attributes:
        node: the Attention or Softmax that the layer was found by.
        query: (rows, heads, tokens, features).
        key, value: (rows, heads, key tokens, features).
        heads: number of heads.
        scale: factor of the scores.
        masks: what is added to the scores, or bool; broadcast to (rows, heads, tokens, key tokens).
        zeroed: conditions under which rows of the result are replaced by zeros.
        output: the result, (rows, tokens, heads * features).
        read_elsewhere: whether queries or keys are needed for more than this layer's product.
    """

    node: ir.Node
    query: ir.Value
    key: ir.Value
    value: ir.Value
    heads: int
    scale: float
    masks: list[ir.Value]
    output: ir.Value
    zeroed: list[ir.Value] = field(default_factory=list)
    read_elsewhere: bool = False

    @property
    def name(self) -> str:
        """The name of its operator."""
        return str(self.node.name or self.node.outputs[0].name)


def find_encoder_attention(model: ir.Model) -> tuple[list[EncoderAttention], dict[str, str]]:
    """Find the layers of a graph.

    Args:
        model: a float32 graph.

    Returns:
        The layers, and for each attention that is none of them, by the name of its operator: why.
    """
    layers: list[EncoderAttention] = []
    left: dict[str, str] = {}
    opset = model.opset_imports.get("") or 1
    for node in list(model.graph):
        if node.domain != "" or node.op_type not in ("Attention", "Softmax"):
            continue
        try:
            scores = _of_attention(node) if node.op_type == "Attention" else scores_of_softmax(node, opset)
            if scores is not None:
                layers.append(_layer(node, scores))
        except NotFusedError as error:
            left[str(node.name or node.outputs[0].name)] = error.reason
    return layers, left


def _layer(node: ir.Node, scores: Scores) -> EncoderAttention:
    import onnx_ir as ir

    heads = size_of(scores.query, 1)
    if scores.query.dtype != ir.DataType.FLOAT:
        raise NotFusedError(f"queries are {scores.query.dtype or 'of an unknown type'}, not float32")
    if size_of(scores.key, 1) != heads or size_of(scores.value, 1) != heads:
        raise NotFusedError("queries, keys and values have different numbers of heads")
    zeroed: list[ir.Value] = []
    output = concatenated_heads(scores.result, zeroed)
    _require_fitting(scores, output, heads)
    query, first = without_factor(scores.query)
    key, second = without_factor(scores.key)
    scale = scores.scale * first * second
    return EncoderAttention(
        node, query, key, scores.value, heads, scale, scores.masks, output, zeroed, scores.read_elsewhere
    )


def _require_fitting(scores: Scores, output: ir.Value, heads: int) -> None:
    """Check that nothing is broadcast on the way, which the operators do not do: keys of one row for all, for example.

    Raises:
        NotFusedError: sizes are not known to be those of one attention.
    """
    shapes = [value.shape for value in (scores.query, scores.key, scores.value, scores.result, output)]
    if [len(shape or ()) for shape in shapes] != [4, 4, 4, 4, 3]:
        raise NotFusedError("queries, keys, values or the result have unknown shapes, or other axes")
    query, key, value, result, whole = (list(shape or ()) for shape in shapes)
    features = value[3]
    if not isinstance(features, int):
        raise NotFusedError("the number of features of a head is not known")
    fitting = (
        (key, [query[0], heads, key[2], query[3]]),
        (value, [query[0], heads, key[2], features]),
        (result, [query[0], heads, query[2], features]),
        (whole, [query[0], query[2], heads * features]),
    )
    for found, wanted in fitting:
        if not are_same_sizes(found, wanted):
            raise NotFusedError(
                f"the sizes {_told(found)} are not known to be {_told(wanted)}, as they are without broadcasting"
            )


def _told(sizes: Sequence[object]) -> str:
    return f"({', '.join(str(getattr(size, 'value', size)) for size in sizes)})"


def _of_attention(node: ir.Node) -> Scores:
    if len(node.inputs) > 4 or len(node.outputs) != 1:
        raise NotFusedError("it has a cache")
    whole = node.attributes
    if whole.get_int("is_causal", 0) or whole.get_int("q_num_heads", 0) or whole.get_float("softcap", 0.0):
        raise NotFusedError("it is causal, has capped scores, or its heads are not split")
    query, key, value = (required(given) for given in node.inputs[:3])
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    scale = whole.get_float("scale", size_of(query, 3) ** -0.5)
    return Scores(query, key, value, node.outputs[0], scale, [] if mask is None else [mask])
