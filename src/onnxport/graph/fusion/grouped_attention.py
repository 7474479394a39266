"""One GroupQueryAttention for each layer: rotation, mask, cache and attention in one operator.

What each layer does is found out first (`attention_layers`, `mask_meaning`, `rotary_meaning`); a graph in
which one layer does anything else keeps its attention as it is, because all layers see the same tokens
in the same places. A rotation that the operator does not have stays before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.evaluation import Evaluator, numeric_sources, sample_call
from onnxport.graph.fusion.attention_layers import Layer, NotFusedError, find_layers
from onnxport.graph.fusion.mask_meaning import MaskMeaning, mask_meaning
from onnxport.graph.fusion.packed_projection import Projection, project
from onnxport.graph.fusion.packed_rows import Rows, pack_rows, restore_rows
from onnxport.graph.fusion.rotary_meaning import RotaryMeaning, is_rotation, rotary_meaning
from onnxport.system.library_errors import first_line
from onnxport.tensor_names import is_past

if TYPE_CHECKING:
    import onnx_ir as ir

_POSITIONS = "position_ids"
# What the operator asks for: features of a head, and of one when it rotates; pairs of a rotation.
_FEATURES, _ROTATED_FEATURES, _PAIRS = 8, 16, 8


@dataclass(frozen=True)
class Attentions:
    """What was fused.

    Attributes:
        layers: how many.
        windows: the windows of those that have one.
        rotations: how many layers rotate inside the operator.
        longest: columns of the mask that the graph can take.
    """

    layers: int
    windows: tuple[int, ...]
    rotations: int
    longest: int


@dataclass(frozen=True)
class _Turn:
    """A rotation on the way to the attention: what goes in, and what it means."""

    source: ir.Value
    meaning: RotaryMeaning


def group_attention(model: ir.Model, longest: int) -> Attentions:
    """Fuse every attention layer, in place.

    Args:
        model: a decoder as `convert` writes it.
        longest: tokens, past and new, up to which masks and rotations are proved; the graph refuses more.

    Raises:
        NotFusedError: why the attention stays as it is; the model must not be used any further.
    """
    import onnx_ir as ir

    layers = find_layers(model)
    if any(layer.query.dtype != ir.DataType.FLOAT for layer in layers):
        raise NotFusedError("it does not compute with float32")
    evaluator = Evaluator(model)
    masks = _masks(evaluator, layers, longest)
    for condition in {id(value): value for layer in layers for value in layer.empty}.values():
        _require_padding_only(evaluator, condition)
    for layer in layers:
        if layer.features % _FEATURES:
            raise NotFusedError(f"heads of {layer.features} features are no multiple of {_FEATURES}")
    known: list[RotaryMeaning] = []
    turns = [_turns(evaluator, layer, longest, known) for layer in layers]
    rows = pack_rows(model)
    tables = _Tables(model)
    for number, (layer, mask, turn) in enumerate(zip(layers, masks, turns, strict=True)):
        _replace(model, layer, mask, turn, rows, tables, number)
    restore_rows(model, rows)
    _clean(model)
    windows = {mask.window for mask in masks if mask.window is not None}
    return Attentions(len(layers), tuple(sorted(windows)), sum(turn is not None for turn in turns), longest)


def _masks(evaluator: Evaluator, layers: list[Layer], longest: int) -> list[MaskMeaning]:
    """The meaning of every layer's mask; layers share masks, so each is found out once."""
    known: dict[int, MaskMeaning] = {}
    for layer in layers:
        if id(layer.mask) not in known:
            known[id(layer.mask)] = _mask(evaluator, layer, longest)
    return [known[id(layer.mask)] for layer in layers]


def _mask(evaluator: Evaluator, layer: Layer, longest: int) -> MaskMeaning:
    mask = layer.mask
    if mask is None:
        raise NotFusedError("it has no mask, so each token sees those after it")
    inputs = evaluator.model.graph.inputs
    if not numeric_sources(mask) <= {"attention_mask", _POSITIONS}:
        raise NotFusedError("its mask depends on more than attention_mask")
    try:
        meaning = mask_meaning(lambda given, new: evaluator.run(mask, sample_call(inputs, given, new)), longest=longest)
    except Exception as error:  # whatever ONNX Runtime says: the mask is not understood
        raise NotFusedError(f"its mask cannot be run by itself: {first_line(error)}") from error
    if meaning is None:
        raise NotFusedError("its mask is neither causal nor a sliding window")
    return meaning


def _require_padding_only(evaluator: Evaluator, condition: ir.Value) -> None:
    """Zeros may take the place of padding's results, which mean nothing, and of no other's."""
    mask = np.array([[1] * 9, [0, 0, 1, 1, 1, 1, 1, 1, 1], [0] * 7 + [1] * 2])
    for new in (1, 3, 9):
        found = evaluator.run(condition, sample_call(evaluator.model.graph.inputs, mask, new))
        found = np.broadcast_to(found.reshape(found.shape[0], -1, found.shape[-2]).any(1), (3, new))
        if found[mask[:, 9 - new :] == 1].any():
            raise NotFusedError("some of its results are replaced by zeros")


def _turns(evaluator: Evaluator, layer: Layer, longest: int, known: list[RotaryMeaning]) -> tuple[_Turn, _Turn] | None:
    """The rotation of queries and keys, where both have the same one and the operator has it too."""
    if layer.features % _ROTATED_FEATURES:
        return None
    key = _turn(evaluator, layer.key, longest, known)  # first, because keys have fewer heads
    query = _turn(evaluator, layer.query, longest, known) if key is not None else None
    if query is None or key is None or query.meaning is not key.meaning:
        return None
    pairs = query.meaning.cos.shape[1]
    return (query, key) if pairs % _PAIRS == 0 and 2 * pairs <= layer.features else None


def _turn(evaluator: Evaluator, value: ir.Value, longest: int, known: list[RotaryMeaning]) -> _Turn | None:
    """The nearest value before `value` that only positions are needed to get from to it.

    Args:
        known: rotations of other layers; one that is found here is added.
    """
    if numeric_sources(value) <= {"input_ids"} or value.shape is None:
        return None
    heads, features = (int(size) for size in (value.shape[1], value.shape[3]))  # type: ignore[arg-type]
    inputs = evaluator.model.graph.inputs
    for source in _before(value):
        if numeric_sources(value, cut=source) != {_POSITIONS}:
            continue

        def run(x: np.ndarray, positions: np.ndarray, source: ir.Value = source) -> np.ndarray:
            mask = np.ones(positions.shape, np.int64)
            arrays = sample_call(inputs, mask, positions.shape[1], positions)
            return evaluator.run(value, {**arrays, str(source.name): x}, [source])

        try:
            for meaning in known:
                if is_rotation(run, meaning, heads, features):
                    return _Turn(source, meaning)
            found = rotary_meaning(run, heads, features, longest)
        except Exception:  # ONNX Runtime refuses a part that is none
            return None
        if found is None:
            return None
        known.append(found)
        return _Turn(source, found)
    return None


def _before(value: ir.Value, most: int = 60) -> list[ir.Value]:
    """Values of the same shape on the way to `value`, the nearest first."""
    found: list[ir.Value] = []
    pending, seen = [value], {id(value)}
    while pending and len(seen) < most:
        one = pending.pop(0)
        node = one.producer()
        for given in node.inputs if node is not None else ():
            if given is not None and id(given) not in seen and given.const_value is None:
                seen.add(id(given))
                pending.append(given)
                if given.shape is not None and given.shape == value.shape:
                    found.append(given)
    return found


class _Tables:
    """Cosines and sines as weights, one pair for each rotation."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._known: dict[int, tuple[ir.Value, ir.Value]] = {}

    def of(self, meaning: RotaryMeaning) -> tuple[ir.Value, ir.Value]:
        number = len(self._known)
        if id(meaning) not in self._known:
            cos = self._weight(f"cos_cache.{number}", meaning.cos)
            self._known[id(meaning)] = cos, self._weight(f"sin_cache.{number}", meaning.sin)
        return self._known[id(meaning)]

    def _weight(self, name: str, array: np.ndarray) -> ir.Value:
        import onnx_ir as ir

        tensor = ir.tensor(np.ascontiguousarray(array, np.float32), name=name)
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value


def _replace(
    model: ir.Model, layer: Layer, mask: MaskMeaning, turns: tuple[_Turn, _Turn] | None, rows: Rows,
    tables: _Tables, number: int,
) -> None:  # fmt: skip
    import onnx_ir as ir

    query, key = (turn.source for turn in turns) if turns else (layer.query, layer.key)
    before = layer.output.producer()
    assert before is not None
    projection: Projection = project(model, before, query, key, layer.value, f"attention.{number}")
    cos, sin = tables.of(turns[0].meaning) if turns else (None, None)
    attributes: dict[str, int | float] = {
        "num_heads": layer.heads, "kv_num_heads": layer.key_heads, "scale": layer.scale,
        "local_window_size": mask.window if mask.window is not None else -1,
    }  # fmt: skip
    if layer.softcap:
        attributes["softcap"] = layer.softcap
    if turns:
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(turns[0].meaning.interleaved)}
    node = ir.node(
        "GroupQueryAttention",
        [*projection.values, *layer.past, rows.lengths, rows.total, cos, sin, *[None] * 7, rows.new],
        attributes,
        domain="com.microsoft",
        num_outputs=3,
        name=f"attention.{number}",
    )
    model.graph.insert_before(before, node)
    result = node.outputs[0]
    result.name, result.type = f"attention.{number}.output", layer.query.type
    tokens = layer.query.shape
    assert tokens is not None
    result.shape = ir.Shape([tokens[0], tokens[2], layer.heads * layer.features])
    if len(layer.output.shape or ()) == 3:
        layer.output.replace_all_uses_with(result)
    else:
        before.replace_input_with(0, result)
    for old, new in zip(layer.present, node.outputs[1:], strict=True):
        new.shape, new.type = old.shape, old.type
        name, old.name = old.name, None
        new.name = name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _clean(model: ir.Model) -> None:
    """What is not needed any more is gone; what still looks at padding or at the cache's length is refused."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model.opset_imports["com.microsoft"] = 1
    RemoveUnusedNodesPass()(model)
    for value in list(model.graph.inputs):
        for node in value.consumers():
            name, kind = str(value.name), node.op_type
            ours = (node.name or "").startswith("packed_rows.") or kind == "GroupQueryAttention"
            if name == "attention_mask" and not ours:
                raise NotFusedError(f"{kind} reads attention_mask beside the attention")
            if is_past(name) and not ours and not (kind == "Shape" and _without_length(node)):
                raise NotFusedError(f"{kind} reads the cache beside the attention")
        if not value.uses() and str(value.name) == _POSITIONS:
            model.graph.inputs.remove(value)


def _without_length(node: ir.Node) -> bool:
    """Whether a Shape leaves out axis 2, which in a buffer is its length, not that of the past."""
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 4)
    return 2 not in range(4)[start:end]
