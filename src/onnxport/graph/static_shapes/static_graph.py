"""Make a graph with static shapes: set sizes, propagate shapes, and fold what becomes constant.

A decoder gets a static cache: it returns the last entries of each cache tensor, as many as it takes. They are the
inputs of the next call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from onnxport.artifact.manifest import Component
from onnxport.axes import evaluate
from onnxport.errors import ExportError, UsageError
from onnxport.graph.simplify import simplify
from onnxport.graph.static_shapes.cache_mask import add_cache_mask
from onnxport.graph.static_shapes.cache_positions import derive_positions
from onnxport.graph.static_shapes.measured_shapes import measure_shapes
from onnxport.specs import TensorSpec
from onnxport.tensor_names import NUM_LOGITS, NUM_LOGITS_TO_KEEP, is_past, present_name

if TYPE_CHECKING:
    import onnx_ir as ir

_ROUNDS = 5
MASK = "attention_mask"


@dataclass(frozen=True)
class StaticGraph:
    """A graph with static shapes, not written yet.

    Attributes:
        model: the graph; its large weights refer to the files of the source graph.
        axes: input or output name -> its axes with names; a cache output has the axes of its input.
        inputs: inputs with static axes.
        outputs: outputs with static axes.
        cache_axis: name of the axis of a decoder's past, or None.
        data_dependent: inner values whose size depends on input values, with their operator.
    """

    model: ir.Model
    axes: dict[str, tuple[int | str, ...]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cache_axis: str | None
    data_dependent: tuple[str, ...]

    def write(self, target: Path, metadata: Mapping[str, str]) -> None:
        """Write the graph file. The weights stay in their files, which must be in the same folder.

        Args:
            target: the file to write.
            metadata: added to the metadata of the graph.
        """
        import onnx_ir as ir

        self.model.metadata_props.update(metadata)
        target.unlink(missing_ok=True)
        target.write_bytes(ir.to_proto(self.model).SerializeToString())


def make_static(
    source: Path, component: Component, sizes: Mapping[str, int], *, positions_from_mask: bool = False
) -> StaticGraph:
    """Make a static graph from a portable one.

    Args:
        source: the graph file.
        component: its entry in the manifest.
        sizes: axis name -> size, for every axis of its inputs.
        positions_from_mask: for a decoder without a mask, derive positions from the added mask.

    Raises:
        ExportError: the size of an output depends on input values, or the cache of a decoder cannot be static.
        UsageError: the cache is smaller than the tokens of one call.
    """
    import onnx_ir as ir

    model = ir.load(source)
    inputs = tuple(spec for spec in component.inputs if spec.name != NUM_LOGITS_TO_KEEP)
    outputs = _outputs_for_all_tokens(component)
    caches = _cache_tensors(source, inputs, outputs, sizes)
    _set_sizes(model, inputs, sizes)
    if caches:
        first = next(iter(caches.values()))
        inputs = _inputs_with_mask(source, model, inputs, sizes, caches, first.tokens)
        if positions_from_mask:
            derive_positions(model, {cache.past for cache in caches.values()}, first.size)
    data_dependent = _fold(model, source)
    for value in model.graph.outputs:
        if value.shape is None or not value.shape.is_static():
            raise ExportError(
                f"{source.name}: the size of the output {value.name} depends on input values "
                f"({', '.join(data_dependent[:3]) or 'unknown operators'}), so it cannot be static.",
                hint=f"Use {source.name}, which has dynamic axes.",
            )
    for cache in caches.values():
        _return_last(model, cache)
    shapes = {str(value.name): cast("ir.Shape", value.shape) for value in model.graph.outputs}
    axes = {spec.name: spec.axes for spec in (*inputs, *outputs)}
    axes |= {name: axes[cache.past] for name, cache in caches.items()}
    return StaticGraph(
        model, axes,
        tuple(TensorSpec(spec.name, spec.dtype, tuple(evaluate(axis, sizes) for axis in spec.axes)) for spec in inputs),
        tuple(TensorSpec(spec.name, spec.dtype, tuple(int(size) for size in shapes[spec.name])) for spec in outputs),
        next((cache.axis for cache in caches.values()), None), data_dependent,
    )  # fmt: skip


def _fold(model: ir.Model, source: Path) -> tuple[str, ...]:
    """Fold what is constant at these sizes; return the values whose size is unknown.

    Folding makes more shapes known, and known shapes make more values constant, so it is repeated.
    """
    before = -1
    for _ in range(_ROUNDS):
        simplify(model, weights_stay=True)
        data_dependent = measure_shapes(model, source)
        nodes = list(model.graph.all_nodes())
        if len(nodes) == before or not (data_dependent or any(node.op_type == "Shape" for node in nodes)):
            break
        before = len(nodes)
    return data_dependent


@dataclass(frozen=True)
class _CacheTensor:
    """A cache tensor that grows.

    Attributes:
        past: name of the input.
        present: name of the output.
        axis: name of the axis that grows.
        axis_index: index of that axis.
        size: its size in the static cache.
        tokens: number of entries that a call appends.
    """

    past: str
    present: str
    axis: str
    axis_index: int
    size: int
    tokens: int


def _outputs_for_all_tokens(component: Component) -> tuple[TensorSpec, ...]:
    """Return the output specs of the graph when it returns the logits of all tokens."""
    if not any(spec.name == NUM_LOGITS_TO_KEEP for spec in component.inputs):
        return component.outputs
    tokens = next(
        spec.axes[1] for spec in component.inputs if spec.name in ("input_ids", "decoder_input_ids", "inputs_embeds")
    )
    return tuple(
        TensorSpec(spec.name, spec.dtype, tuple(tokens if axis == NUM_LOGITS else axis for axis in spec.axes))
        for spec in component.outputs
    )


def _cache_tensors(
    source: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], sizes: Mapping[str, int]
) -> dict[str, _CacheTensor]:
    """Return, by output name, the cache tensors that are longer in the output than in the input."""
    made = {spec.name: spec for spec in outputs}
    found = {}
    for spec in inputs:
        present = present_name(spec.name)
        if not is_past(spec.name) or present not in made:
            continue
        for axis_index, (before, after) in enumerate(zip(spec.axes, made[present].axes, strict=True)):
            if before == after:
                continue
            size, tokens = evaluate(before, sizes), evaluate(after, sizes) - evaluate(before, sizes)
            if not isinstance(before, str) or ".encoder." in spec.name or tokens < 1:
                raise ExportError(
                    f"{source.name}: {spec.name} has other sizes in the first call than in later calls, so one graph "
                    "with static shapes cannot do both.",
                    hint=f"Use {source.name}, which has dynamic axes.",
                )
            found[present] = _CacheTensor(spec.name, present, before, axis_index, size, tokens)
    short = next((cache for cache in found.values() if cache.size < cache.tokens), None)
    if short is not None:
        raise UsageError(
            f"{source.name}: {short.axis}={short.size} is too small for the {short.tokens} tokens of one call.",
            hint=f"Use {short.axis}={short.tokens} or more.",
        )
    return found


def _set_sizes(model: ir.Model, inputs: tuple[TensorSpec, ...], sizes: Mapping[str, int]) -> None:
    """Set the sizes of inputs, and remove the declared shapes of all other values."""
    import onnx_ir as ir

    axes = {spec.name: spec.axes for spec in inputs}
    for value in list(model.graph.inputs):
        if value.name in axes:
            value.shape = ir.Shape([evaluate(axis, sizes) for axis in axes[value.name]])
        else:  # has a default, which is constant now: the logits of all tokens
            model.graph.inputs.remove(value)
    for node in model.graph.all_nodes():
        for output in node.outputs:
            output.shape = None
    for output in model.graph.outputs:
        output.shape = None


def _inputs_with_mask(
    source: Path, model: ir.Model, inputs: tuple[TensorSpec, ...], sizes: Mapping[str, int],
    caches: Mapping[str, _CacheTensor], tokens: int,
) -> tuple[TensorSpec, ...]:  # fmt: skip
    """Return the inputs with a mask over cache and new tokens; it hides unused cache slots."""
    size = next(iter(caches.values())).size
    total = size + tokens
    mask = next((spec for spec in inputs if spec.name == MASK), None)
    if mask is not None and [evaluate(axis, sizes) for axis in mask.axes[1:]] == [total]:
        return inputs
    if mask is None and add_cache_mask(model, {cache.past for cache in caches.values()}, total):
        first = next(spec for spec in inputs if spec.name in {cache.past for cache in caches.values()})
        axis = next(iter(caches.values())).axis
        return (*inputs, TensorSpec(MASK, "int64", (first.axes[0], f"{axis} + {tokens}")))
    raise ExportError(
        f"{source.name}: this decoder has no {MASK}, and none can be added, so unused cache slots could not be masked.",
        hint=f"Use {source.name}, which has dynamic axes.",
    )


def _return_last(model: ir.Model, cache: _CacheTensor) -> None:
    """Return only the last entries of a cache output, as many as the input has."""
    import onnx_ir as ir

    index, full = next((n, v) for n, v in enumerate(model.graph.outputs) if v.name == cache.present)
    bounds = []
    for what, number in (("start", cache.tokens), ("end", 2**62), ("axis", cache.axis_index)):
        name = f"window.{what}.{number}"
        if name not in model.graph.initializers:
            tensor = ir.tensor(np.array([number], np.int64), name=name)
            value = ir.Value(
                name=name, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor
            )  # fmt: skip
            model.graph.register_initializer(value)
        bounds.append(model.graph.initializers[name])
    full.name = f"{cache.present}.whole"
    node = ir.node("Slice", [full, *bounds], name=f"{cache.present}.window")
    last = node.outputs[0]
    last.name, last.type = cache.present, full.type
    sizes = list(cast("ir.Shape", full.shape))
    sizes[cache.axis_index] = cache.size
    last.shape = ir.Shape(sizes)
    model.graph.append(node)
    model.graph.outputs[index] = last
