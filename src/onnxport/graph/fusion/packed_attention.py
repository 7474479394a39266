"""Replace the attention of encoders and encoder-decoders by one operator of com.microsoft.

- Attention, where queries, keys and values are products of one input: with packed weights.
- MultiHeadAttention where that takes less time: long inputs without a mask (sounds), and products and a softmax whose
  queries and keys are read elsewhere too (DeBERTa) or are of two inputs (cross attention).

Requirements of the operators and their meaning:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md

A mask that hides nothing is left out, one that hides padding becomes lengths, and every other one, and every bias, is
added to the scores. A layer that is anything else stays as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.fusion.added_masks import LOWEST, Masks
from onnxport.graph.fusion.attention_layers import NotFusedError, are_same_sizes
from onnxport.graph.fusion.attention_scores import without_factor
from onnxport.graph.fusion.encoder_attention import EncoderAttention, find_encoder_attention
from onnxport.graph.fusion.encoder_mask import Hides
from onnxport.graph.fusion.flat_heads import FlatHeads, flat_of
from onnxport.graph.fusion.packed_projection import Linear, concatenate_weights, linear_of

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"
# ModernBERT, 8 rows of 128 tokens: 1.05 times the time of ONNX's Attention; without a mask 0.95 (Whisper).
_NOT_FASTER = (
    "queries, keys and values are not products of one input (they are rotated, for example), and with a mask "
    "MultiHeadAttention is not faster than ONNX's Attention"
)
# Key tokens from which MultiHeadAttention, which needs no memory for all scores of a layer if nothing is masked, takes
# less time than Attention: 0.94 at 1500 tokens (Whisper), 1.0 at 197 (ViT).
_LONG = 512


@dataclass(frozen=True)
class FusedLayers:
    """What was fused.

    Attributes:
        masks: "nothing", "padding" or "other" -> number of layers whose mask hides that.
        left: operator of each attention that stays as it is -> why.
    """

    masks: dict[str, int]
    left: dict[str, str]

    @property
    def layers(self) -> int:
        """Number of fused layers."""
        return sum(self.masks.values())


@dataclass
class _MaskInputs:
    """The masks of a layer as inputs of the operator.

    Attributes:
        hides: what they hide together.
        seen: (rows, key tokens) int32, 1 for tokens that are seen; None: all.
        added: added to the scores, or None.
        rows: the input that says where padding is, if rows that are padding alone become zeros.
        zeroed: further conditions under which rows of the result become zeros.
    """

    hides: Hides
    seen: ir.Value | None
    added: ir.Value | None
    rows: ir.Value | None
    zeroed: list[ir.Value]


def fuse_encoder_attention(model: ir.Model) -> FusedLayers:
    """Fuse the attention of a graph, in place.

    Args:
        model: a float32 graph.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    layers, left = find_encoder_attention(model)
    fusion = _Fusion(model)
    kinds: Counter[str] = Counter()
    for number, layer in enumerate(layers):
        try:
            kinds[fusion.replace(layer, f"attention.{number}").value] += 1
        except NotFusedError as error:
            left[layer.name] = error.reason
    RemoveUnusedNodesPass()(model)
    if kinds:
        model.graph.sort()  # a mask that layers share was computed before the first of them
        model.opset_imports[DOMAIN] = 1
    return FusedLayers(dict(kinds), left)


class _Fusion:
    """Replaces the layers of one graph, which share masks and projections."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._masks = Masks(model)
        self._flat = FlatHeads(model)
        self._packed: dict[tuple[int, ...], tuple[ir.Value, ir.Value | None]] = {}

    def replace(self, layer: EncoderAttention, name: str) -> Hides:
        """Replace one layer, and return what its masks hide.

        Raises:
            NotFusedError: it cannot be said with the operators. The graph computes the same as before.
        """
        import onnx_ir as ir

        producer = layer.output.producer()
        if producer is None:
            raise NotFusedError("the result is no value of the graph")
        masks = self._mask_inputs(layer, producer)
        packed = None if masks.hides is Hides.NOTHING and _is_long(layer) else _packed(layer)
        if packed is None and layer.node.op_type == "Attention" and masks.hides is not Hides.NOTHING:
            raise NotFusedError(_NOT_FASTER)
        fused = (
            self._attention(layer, packed, masks, name) if packed is not None
            else self._multi_head(layer, masks, name)
        )  # fmt: skip
        self._model.graph.insert_before(producer, fused)
        old, new = layer.output, fused.outputs[0]
        new.name, new.shape, new.type = f"{name}.output", old.shape, old.type
        if masks.rows is not None:
            node = ir.node("Mul", [new, self._masks.with_tokens(masks.rows)], name=f"{name}.rows")
            self._model.graph.insert_before(producer, node)
            new = node.outputs[0]
        for condition in masks.zeroed:
            new = self._masks.kept_rows(condition, new, producer)
        new.shape, new.type = old.shape, old.type
        old_name, old.name = old.name, None
        new.name = old_name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        return masks.hides

    def _mask_inputs(self, layer: EncoderAttention, before: ir.Node) -> _MaskInputs:
        reader = self._masks.reader
        read = [(mask, *reader.read(mask)) for mask in layer.masks]
        paddings = [(mask, source) for mask, hides, source in read if hides is Hides.PADDING and source is not None]
        padding = paddings[0][1] if len(paddings) == 1 and _marks_keys(paddings[0][1], layer) else None
        hidden = [mask for mask, hides, _ in read if hides is Hides.OTHER]
        others = hidden + ([mask for mask, _ in paddings] if padding is None else [])
        zeroed = [condition for condition in layer.zeroed if not reader.is_row_of_padding(condition, None)]
        rows = reader.padding_behind(zeroed) if zeroed else None
        if rows is not None:
            zeroed = []
        added = self._masks.added(others, layer.query, layer.key, before) if others else None
        seen = self._masks.padding(padding) if padding is not None else None
        hides = Hides.OTHER if others else Hides.PADDING if seen is not None else Hides.NOTHING
        return _MaskInputs(hides, seen, added, rows, zeroed)

    def _attention(self, layer: EncoderAttention, packed: _Packed, masks: _MaskInputs, name: str) -> ir.Node:
        import onnx_ir as ir

        linears = packed.linears
        weights = linears[0].weight
        biases = linears[0].bias
        widths = [_width(linear.weight) for linear in linears]
        if len(linears) == 3:
            weights, biases = self._concatenated(linears, name)
        else:
            widths = [widths[0] // 3] * 3
        return ir.node(
            "Attention",
            [linears[0].data, weights, biases, masks.seen, None, masks.added],
            {
                "num_heads": layer.heads,
                "scale": layer.scale * packed.factor,
                "mask_filter_value": LOWEST,
                "qkv_hidden_sizes": widths,
            },
            domain=DOMAIN,
            name=name,
        )

    def _concatenated(self, linears: tuple[Linear, ...], name: str) -> tuple[ir.Value, ir.Value | None]:
        """Weights and biases of three projections; layers that share theirs (ALBERT) share the result."""
        key = tuple(id(part) for linear in linears for part in (linear.weight, linear.bias))
        if key not in self._packed:
            weights = concatenate_weights(self._model, [linear.weight for linear in linears], f"{name}.qkv.weight")
            self._packed[key] = weights, _biases(self._model, linears, name)
        return self._packed[key]

    def _multi_head(self, layer: EncoderAttention, masks: _MaskInputs, name: str) -> ir.Node:
        import onnx_ir as ir

        before = layer.output.producer()
        assert before is not None
        key, value = (self._flat.of(given, before) for given in (layer.key, layer.value))
        if key is None or value is None:  # the operator takes both with split heads
            key, value = layer.key, layer.value
        query = self._flat.of(layer.query, before)
        if query is None:
            query = self._flat.merged(layer.query, before)
        return ir.node(
            "MultiHeadAttention",
            [query, key, value, None, masks.seen, masks.added],
            {"num_heads": layer.heads, "scale": layer.scale, "mask_filter_value": LOWEST},
            domain=DOMAIN,
            name=name,
        )


def _marks_keys(padding: ir.Value, layer: EncoderAttention) -> bool:
    """Whether an input (rows, tokens) has the rows and the key tokens of a layer, and is not broadcast to them."""
    keys, marks = layer.key.shape, padding.shape
    return keys is not None and marks is not None and are_same_sizes(marks, [keys[0], keys[2]])


def _is_long(layer: EncoderAttention) -> bool:
    tokens = layer.key.shape[2] if layer.key.shape is not None else None
    return isinstance(tokens, int) and tokens >= _LONG


@dataclass(frozen=True)
class _Packed:
    """Projections of one input.

    Attributes:
        linears: three, or one whose result has three parts.
        factor: of their scores.
    """

    linears: tuple[Linear, ...]
    factor: float = 1.0


def _packed(layer: EncoderAttention) -> _Packed | None:
    """The projections of a layer if they have one input, else None."""
    flats = [flat_of(value) for value in (layer.query, layer.key, layer.value)]
    known = [flat for flat in flats if flat is not None]
    if len(known) < 3 or layer.read_elsewhere:  # packing would compute them twice
        return None
    if all(flat.whole is known[0].whole and (flat.part, flat.parts) == (part, 3) for part, flat in enumerate(known)):
        whole = linear_of(known[0].whole)
        return _Packed((whole,)) if whole is not None and _fits(whole) else None
    (query, first), (key, second) = (without_factor(flat.whole) for flat in known[:2])
    found = [linear_of(value) for value in (query, key, known[2].whole)]
    linears = tuple(linear for linear in found if linear is not None and _fits(linear))
    if len(linears) < 3 or any(flat.parts > 1 for flat in known):
        return None
    widths = [_width(linear.weight) for linear in linears]
    same = all(linear.data is linears[0].data for linear in linears) and widths[0] == widths[1]
    return _Packed(linears, first * second) if same and not any(width % layer.heads for width in widths) else None


def _fits(linear: Linear) -> bool:
    return linear.data.shape is not None and len(linear.data.shape) == 3


def _biases(model: ir.Model, linears: tuple[Linear, ...], name: str) -> ir.Value | None:
    """The three biases; zeros for a layer that has none, if another has one."""
    import onnx_ir as ir

    if all(linear.bias is None for linear in linears):
        return None
    biases = [
        linear.bias or ir.Value(const_value=ir.tensor(np.zeros(_width(linear.weight), np.float32)))
        for linear in linears
    ]
    return concatenate_weights(model, biases, f"{name}.qkv.bias")


def _width(weight: ir.Value) -> int:
    assert weight.const_value is not None
    return int(weight.const_value.shape[-1])
