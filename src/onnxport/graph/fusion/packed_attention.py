"""Replace the self attention of encoders by com.microsoft::Attention: packed projections, mask and attention in one.

Requirements of the operator and its meaning:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Attention

A layer that is anything else stays as it is, and so does a mask that hides anything but padding: it is added to the
scores as before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.fusion.encoder_mask import Hides, MaskReader
from onnxport.graph.fusion.packed_projection import Linear, concatenate_weights, register_weight
from onnxport.graph.fusion.self_attention import SelfAttention, find_self_attention

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class PackedAttention:
    """What was fused.

    Attributes:
        masks: "nothing", "padding" or "other" -> number of layers whose mask hides that.
        left: for each attention that stays as it is, why.
    """

    masks: dict[str, int]
    left: tuple[str, ...]

    @property
    def layers(self) -> int:
        """Number of fused layers."""
        return sum(self.masks.values())


class _Masks:
    """The inputs that masks of a graph become; each is computed once.

    Args:
        model: the graph.
    """

    def __init__(self, model: ir.Model) -> None:
        self.reader = MaskReader(model)
        self._model = model
        self._made: dict[tuple[str, int], ir.Value] = {}

    def padding(self, source: ir.Value) -> ir.Value:
        """(rows, tokens) int32, 1 for tokens that are seen."""
        import onnx_ir as ir

        key = ("padding", id(source))
        if key not in self._made:
            tape = ir.tape.Tape()
            value = tape.op("Cast", [tape.op("Cast", [source], {"to": ir.DataType.BOOL})], {"to": ir.DataType.INT32})
            self._made[key] = self._first(tape, value, f"{source.name}.seen")
        return self._made[key]

    def with_tokens(self, source: ir.Value) -> ir.Value:
        """(rows, 1, 1) float32, 0 for rows that are padding alone, else 1."""
        import onnx_ir as ir

        key = ("rows", id(source))
        if key not in self._made:
            tape = ir.tape.Tape()
            axes = register_weight(self._model, f"{source.name}.tokens", ir.tensor(np.array([1])))
            seen = self.padding(source)
            if (self._model.opset_imports.get("") or 0) < 18:
                most = tape.op("ReduceMax", [seen], {"axes": [1], "keepdims": 1})
            else:
                most = tape.op("ReduceMax", [seen, axes], {"keepdims": 1})
            value = tape.op("Unsqueeze", [tape.op("Cast", [most], {"to": ir.DataType.FLOAT}), axes])
            before = seen.producer()
            self._made[key] = self._first(tape, value, f"{source.name}.rows", after=before)
        return self._made[key]

    def added(self, masks: list[ir.Value], before: ir.Node) -> ir.Value | None:
        """The masks as one that is added to the scores; None where that cannot be said in the operator's shape."""
        import onnx_ir as ir

        tape = ir.tape.Tape()
        values = []
        for mask in masks:
            if mask.shape is None or len(mask.shape) != 4:
                return None
            if mask.dtype == ir.DataType.BOOL:
                zero = register_weight(self._model, f"{mask.name}.zero", ir.tensor(np.float32(0)))
                lowest = register_weight(self._model, f"{mask.name}.lowest", ir.tensor(np.float32(_LOWEST)))
                values.append(tape.op("Where", [mask, zero, lowest]))
            elif mask.dtype == ir.DataType.FLOAT:
                values.append(mask)
            else:
                return None
        whole = values[0]
        for value in values[1:]:
            whole = tape.op("Add", [whole, value])
        if not tape.nodes:
            return whole
        key = ("added " + " ".join(str(id(mask)) for mask in masks), 0)
        if key not in self._made:
            _name(tape, whole, f"{masks[0].name}.added")
            self._model.graph.insert_before(before, tape.nodes)
            self._made[key] = whole
        return self._made[key]

    def _first(self, tape: ir.tape.Tape, value: ir.Value, name: str, after: ir.Node | None = None) -> ir.Value:
        """Insert nodes where all layers can read them."""
        _name(tape, value, name)
        if after is not None:
            self._model.graph.insert_after(after, tape.nodes)
        else:
            self._model.graph.insert_before(self._model.graph[0], tape.nodes)
        return value


def fuse_self_attention(model: ir.Model) -> PackedAttention:
    """Fuse the self attention of an encoder, in place.

    Args:
        model: a float32 graph.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    layers, left = find_self_attention(model)
    masks = _Masks(model)
    kinds: Counter[str] = Counter()
    for number, layer in enumerate(layers):
        reason = _replace(model, layer, masks, f"attention.{number}", kinds)
        if reason is not None:
            left.append(f"{layer.node.name or layer.node.outputs[0].name}: {reason}")
    RemoveUnusedNodesPass()(model)
    if kinds:
        model.opset_imports[DOMAIN] = 1
    return PackedAttention(dict(kinds), tuple(left))


def _replace(
    model: ir.Model, layer: SelfAttention, masks: _Masks, name: str, kinds: Counter[str]
) -> str | None:  # fmt: skip
    """Replace one layer; why not, where it stays."""
    import onnx_ir as ir

    producer = layer.output.producer()
    if producer is None or layer.data.dtype not in (ir.DataType.FLOAT, None):
        return "the result is no value of the graph"
    widths = [_width(linear.weight) for linear in layer.linears]
    if widths[0] != widths[1] or any(width % layer.heads for width in widths):
        return "queries and keys have different widths"
    read = [(mask, *masks.reader.read(mask)) for mask in layer.masks]
    paddings = [(mask, source) for mask, hides, source in read if hides is Hides.PADDING and source is not None]
    others = [mask for mask, hides, _ in read if hides is Hides.OTHER]
    padding = paddings[0][1] if len(paddings) == 1 else None
    if len(paddings) > 1:
        others += [mask for mask, _ in paddings]
    zeroed, rows = layer.zeroed, False
    if not others:
        if not all(masks.reader.is_row_of_padding(condition, padding) for condition in zeroed):
            return "rows of the result are replaced by zeros under an unknown condition"
        zeroed, rows = [], bool(zeroed) and padding is not None
    if not all(masks.reader.is_row_of_padding(condition, None) for condition in zeroed):
        return "rows of the result are replaced by zeros under an unknown condition"
    added = masks.added(others, producer) if others else None
    if others and (added is None or not _square(added)):
        return "the mask is not (rows, heads, tokens, tokens)"
    seen = masks.padding(padding) if padding is not None else None
    fused = ir.node(
        "Attention",
        [layer.data, _weights(model, layer.linears, name), _biases(model, layer.linears, name), seen, None, added],
        {"num_heads": layer.heads, "scale": layer.scale, "mask_filter_value": _LOWEST, "qkv_hidden_sizes": widths},
        domain=DOMAIN,
        name=name,
    )
    nodes = [fused]
    if rows and padding is not None:
        nodes.append(ir.node("Mul", [fused.outputs[0], masks.with_tokens(padding)], name=f"{name}.rows"))
        fused.outputs[0].name = f"{name}.output"
    new, old = nodes[-1].outputs[0], layer.output
    for node in nodes:
        node.outputs[0].shape, node.outputs[0].type = old.shape, old.type
    model.graph.insert_before(producer, nodes)
    old_name, old.name = old.name, None
    new.name = old_name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    kinds[Hides.OTHER.value if others else Hides.PADDING.value if seen is not None else Hides.NOTHING.value] += 1
    return None


def _weights(model: ir.Model, linears: tuple[Linear, ...], name: str) -> ir.Value:
    return concatenate_weights(model, [linear.weight for linear in linears], f"{name}.qkv.weight")


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


def _square(mask: ir.Value) -> bool:
    """Whether the last two axes of an added mask are known to be (tokens, tokens), as the operator needs them."""
    shape = mask.shape
    return shape is not None and len(shape) == 4 and shape[2] == shape[3] and shape[2] is not None and shape[2] != 1


def _name(tape: ir.tape.Tape, value: ir.Value, name: str) -> None:
    for index, node in enumerate(tape.nodes):
        node.name = f"{name}_{index}"
        for out in node.outputs:
            out.name = name if out is value else f"{name}_{index}"
