"""Replace each attention layer by one GroupQueryAttention: rotation, mask, cache and attention in one operator.

`attention_layers`, `mask_pattern` and `rotary_embedding` first find out what each layer computes. If one layer computes
anything else, the whole graph stays as it is, because all layers share the order of tokens. A rotation that the
operator does not support stays in front of it.

GroupQueryAttention: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.evaluation import Evaluator, numeric_sources, sample_call
from onnxport.graph.fusion.attention_layers import Layer, NotFusedError, find_layers, in_layer
from onnxport.graph.fusion.mask_pattern import MaskPattern, find_mask_pattern
from onnxport.graph.fusion.packed_projection import Projection, project
from onnxport.graph.fusion.packed_rows import PackedRows, pack_rows, restore_rows
from onnxport.graph.fusion.rotary_embedding import RotaryTables, find_rotary_tables, is_rotation
from onnxport.system.library_errors import first_line
from onnxport.tensor_names import is_past

if TYPE_CHECKING:
    import onnx_ir as ir

_POSITIONS = "position_ids"
# Requirements of the operator: features of a head must be a multiple of 8, of 16 with rotation; pairs of 8.
_FEATURES, _ROTATED_FEATURES, _PAIRS = 8, 16, 8


@dataclass(frozen=True)
class FusedAttention:
    """What was fused.

    Attributes:
        layers: number of attention layers.
        windows: distinct sliding windows in tokens, without layers that have none.
        rotations: number of layers with rotary embedding inside the operator.
        max_tokens: largest number of mask columns that the graph accepts.
    """

    layers: int
    windows: tuple[int, ...]
    rotations: int
    max_tokens: int


@dataclass(frozen=True)
class _RotatedInput:
    """A rotary embedding in front of the attention.

    Attributes:
        source: the value before the rotation.
        tables: its cosines and sines.
    """

    source: ir.Value
    tables: RotaryTables


def fuse_attention(model: ir.Model, max_tokens: int) -> FusedAttention:
    """Fuse every attention layer, in place.

    Args:
        model: a decoder as `convert` writes it.
        max_tokens: number of past and new tokens up to which masks and rotations are checked; the graph accepts no
            more.

    Returns:
        What was fused.

    Raises:
        NotFusedError: a layer cannot be fused. The model may be half changed and must not be used.
    """
    import onnx_ir as ir

    layers = find_layers(model)
    if any(layer.query.dtype != ir.DataType.FLOAT for layer in layers):
        raise NotFusedError("queries are not float32")
    evaluator = Evaluator(model)
    masks = _mask_patterns(evaluator, layers, max_tokens)
    for condition, number in {condition: layer.number for layer in layers for condition in layer.zeroed}.items():
        with in_layer(number):
            _require_padding_only(evaluator, condition)
    for layer in layers:
        if layer.features % _FEATURES:
            raise NotFusedError(
                f"heads have {layer.features} features, which is not a multiple of {_FEATURES}", layer.number
            )
    known: list[RotaryTables] = []
    rotations = [_rotated_inputs(evaluator, layer, max_tokens, known) for layer in layers]
    rows = pack_rows(model)
    tables = _TableWeights(model)
    for layer, mask, rotation in zip(layers, masks, rotations, strict=True):
        _replace(model, layer, mask, rotation, rows, tables)
    restore_rows(model, rows)
    _remove_unused(model)
    windows = {mask.window for mask in masks if mask.window is not None}
    return FusedAttention(
        len(layers), tuple(sorted(windows)), sum(rotation is not None for rotation in rotations), max_tokens
    )


def _mask_patterns(evaluator: Evaluator, layers: list[Layer], max_tokens: int) -> list[MaskPattern]:
    """Return the pattern of each layer's mask; a mask that layers share is examined once."""
    known: dict[int, MaskPattern] = {}
    for layer in layers:
        if id(layer.mask) not in known:
            with in_layer(layer.number):
                known[id(layer.mask)] = _mask_pattern(evaluator, layer, max_tokens)
    return [known[id(layer.mask)] for layer in layers]


def _mask_pattern(evaluator: Evaluator, layer: Layer, max_tokens: int) -> MaskPattern:
    mask = layer.mask
    if mask is None:
        raise NotFusedError("there is no mask, so tokens attend to later tokens")
    inputs = evaluator.model.graph.inputs
    if not numeric_sources(mask) <= {"attention_mask", _POSITIONS}:
        raise NotFusedError("the mask depends on more than attention_mask and position_ids")
    try:
        pattern = find_mask_pattern(
            lambda given, new: evaluator.run(mask, sample_call(inputs, given, new)), max_tokens=max_tokens
        )
    except Exception as error:  # ONNX Runtime raises many types
        raise NotFusedError(f"the mask cannot be evaluated alone: {first_line(error)}") from error
    if pattern is None:
        raise NotFusedError("the mask is neither causal nor a sliding window")
    return pattern


def _require_padding_only(evaluator: Evaluator, condition: ir.Value) -> None:
    """Check that only results of padding, which are undefined, are replaced by zeros."""
    mask = np.array([[1] * 9, [0, 0, 1, 1, 1, 1, 1, 1, 1], [0] * 7 + [1] * 2])
    for new in (1, 3, 9):
        found = evaluator.run(condition, sample_call(evaluator.model.graph.inputs, mask, new))
        found = np.broadcast_to(found.reshape(found.shape[0], -1, found.shape[-2]).any(1), (3, new))
        if found[mask[:, 9 - new :] == 1].any():
            raise NotFusedError("results of real tokens are replaced by zeros")


def _rotated_inputs(
    evaluator: Evaluator, layer: Layer, max_tokens: int, known: list[RotaryTables]
) -> tuple[_RotatedInput, _RotatedInput] | None:
    """Return the rotations of queries and keys, if both have the same one and the operator supports it."""
    if layer.features % _ROTATED_FEATURES:
        return None
    key = _rotated_input(evaluator, layer.key, max_tokens, known)  # keys first: they have fewer heads to evaluate
    query = _rotated_input(evaluator, layer.query, max_tokens, known) if key is not None else None
    if query is None or key is None or query.tables is not key.tables:
        return None
    pairs = query.tables.cos.shape[1]
    return (query, key) if pairs % _PAIRS == 0 and 2 * pairs <= layer.features else None


def _rotated_input(
    evaluator: Evaluator, value: ir.Value, max_tokens: int, known: list[RotaryTables]
) -> _RotatedInput | None:
    """Find the nearest value before `value` from which `value` depends on positions only.

    Args:
        evaluator: runs subgraphs.
        value: queries or keys, (rows, heads, tokens, features).
        max_tokens: number of positions to check.
        known: rotations of other layers; a new one is appended.
    """
    if numeric_sources(value) <= {"input_ids"} or value.shape is None:
        return None
    heads, features = (int(size) for size in (value.shape[1], value.shape[3]))
    inputs = evaluator.model.graph.inputs
    for source in _values_before(value):
        if numeric_sources(value, cut=source) != {_POSITIONS}:
            continue

        def run(x: np.ndarray, positions: np.ndarray, source: ir.Value = source) -> np.ndarray:
            mask = np.ones(positions.shape, np.int64)
            arrays = sample_call(inputs, mask, positions.shape[1], positions)
            return evaluator.run(value, {**arrays, str(source.name): x}, [source])

        try:
            for tables in known:
                if is_rotation(run, tables, heads, features):
                    return _RotatedInput(source, tables)
            found = find_rotary_tables(run, heads, features, max_tokens)
        except Exception:  # this subgraph is not a rotation
            return None
        if found is None:
            return None
        known.append(found)
        return _RotatedInput(source, found)
    return None


def _values_before(value: ir.Value, most: int = 60) -> list[ir.Value]:
    """Return values of the same shape on the way to `value`, nearest first."""
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


class _TableWeights:
    """Weights for cosines and sines, one pair per rotation."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._known: dict[int, tuple[ir.Value, ir.Value]] = {}

    def weights_of(self, tables: RotaryTables) -> tuple[ir.Value, ir.Value]:
        number = len(self._known)
        if id(tables) not in self._known:
            cos = self._weight(f"cos_cache.{number}", tables.cos)
            self._known[id(tables)] = cos, self._weight(f"sin_cache.{number}", tables.sin)
        return self._known[id(tables)]

    def _weight(self, name: str, array: np.ndarray) -> ir.Value:
        import onnx_ir as ir

        tensor = ir.tensor(np.ascontiguousarray(array, np.float32), name=name)
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value


def _replace(
    model: ir.Model, layer: Layer, mask: MaskPattern, rotations: tuple[_RotatedInput, _RotatedInput] | None,
    rows: PackedRows, tables: _TableWeights,
) -> None:  # fmt: skip
    import onnx_ir as ir

    query, key = (rotation.source for rotation in rotations) if rotations else (layer.query, layer.key)
    name, before = f"attention.{layer.number}", layer.output.producer()
    assert before is not None
    projection: Projection = project(model, before, query, key, layer.value, name)
    cos, sin = tables.weights_of(rotations[0].tables) if rotations else (None, None)
    attributes: dict[str, int | float] = {
        "num_heads": layer.heads, "kv_num_heads": layer.key_heads, "scale": layer.scale,
        "local_window_size": mask.window if mask.window is not None else -1,
    }  # fmt: skip
    if layer.softcap:
        attributes["softcap"] = layer.softcap
    if rotations:
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(rotations[0].tables.interleaved)}
    node = ir.node(
        "GroupQueryAttention",
        [*projection.values, *layer.past, rows.lengths, rows.total, cos, sin, *[None] * 7, rows.new],
        attributes,
        domain="com.microsoft",
        num_outputs=3,
        name=name,
    )
    model.graph.insert_before(before, node)
    result = node.outputs[0]
    result.name, result.type = f"{name}.output", layer.query.type
    tokens = layer.query.shape
    assert tokens is not None
    result.shape = ir.Shape([tokens[0], tokens[2], layer.heads * layer.features])
    if len(layer.output.shape or ()) == 3:
        layer.output.replace_all_uses_with(result)
    else:
        before.replace_input_with(0, result)
    for old, new in zip(layer.present, node.outputs[1:], strict=True):
        new.shape, new.type = old.shape, old.type
        output_name, old.name = old.name, None
        new.name = output_name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _remove_unused(model: ir.Model) -> None:
    """Remove unused nodes; refuse a graph that reads the padding or the cache length elsewhere."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model.opset_imports["com.microsoft"] = 1
    RemoveUnusedNodesPass()(model)
    for value in list(model.graph.inputs):
        for node in value.consumers():
            name, kind = str(value.name), node.op_type
            ours = (node.name or "").startswith("packed_rows.") or kind == "GroupQueryAttention"
            if name == "attention_mask" and not ours:
                raise NotFusedError(f"a {kind} outside of the attention reads attention_mask")
            if is_past(name) and not ours and not (kind == "Shape" and _skips_cache_length(node)):
                raise NotFusedError(f"a {kind} outside of the attention reads the cache")
        if not value.uses() and str(value.name) == _POSITIONS:
            model.graph.inputs.remove(value)


def _skips_cache_length(node: ir.Node) -> bool:
    """Return whether a Shape skips axis 2: in a preallocated buffer, it is not the length of the past."""
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 4)
    return 2 not in range(4)[start:end]
