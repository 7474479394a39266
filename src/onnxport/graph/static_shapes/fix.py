"""A graph in which every axis is a number: sizes set, shapes propagated, and what becomes constant folded.

Of a decoder's states the last places are given back, as many as were given, so that they are the next call's past.
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
from onnxport.graph.static_shapes.measured_shapes import measure_shapes
from onnxport.graph.static_shapes.past_mask import hide_unused
from onnxport.graph.static_shapes.window_positions import count_used_places
from onnxport.specs import TensorSpec
from onnxport.tensor_names import NUM_LOGITS, NUM_LOGITS_TO_KEEP, is_past, present_name

if TYPE_CHECKING:
    import onnx_ir as ir

_ROUNDS = 5
MASK = "attention_mask"


@dataclass(frozen=True)
class FixedGraph:
    """A graph of fixed sizes that is not written yet.

    Attributes:
        model: its large weights are places in the files of the graph that it was made from.
        axes: input or output -> its axes, with names; of states the same in and out.
        inputs, outputs: what they are now.
        window: the axis of a decoder's past, or None.
        unsettled: values inside whose size depends on what is in the inputs, with the operator.
    """

    model: ir.Model
    axes: dict[str, tuple[int | str, ...]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    window: str | None
    unsettled: tuple[str, ...]

    def write(self, target: Path, metadata: Mapping[str, str]) -> None:
        """Write the graph file alone; the weights stay where they are, in the same folder."""
        import onnx_ir as ir

        self.model.metadata_props.update(metadata)
        target.unlink(missing_ok=True)
        target.write_bytes(ir.to_proto(self.model).SerializeToString())


def fix_graph(
    source: Path, component: Component, sizes: Mapping[str, int], *, count_places: bool = False
) -> FixedGraph:
    """The graph at `source` with these sizes.

    Args:
        component: its record.
        sizes: axis name -> size, for every axis of its inputs.
        count_places: of a decoder without a mask, positions are counted from the places in use.

    Raises:
        ExportError: an output's size depends on what is in the inputs, or the graph is a decoder whose past cannot
            be a window.
        UsageError: a window is smaller than what a call adds. Nothing was written in any case.
    """
    import onnx_ir as ir

    model = ir.load(source)
    inputs = tuple(spec for spec in component.inputs if spec.name != NUM_LOGITS_TO_KEEP)
    outputs = _of_all_tokens(component)
    states = _states(source, inputs, outputs, sizes)
    _give_sizes(model, inputs, sizes)
    if states:
        first = next(iter(states.values()))
        inputs = _with_mask(source, model, inputs, sizes, states, first.tokens)
        if count_places:
            count_used_places(model, {state.past for state in states.values()}, first.size)
    unsettled = _fold(model, source)
    for value in model.graph.outputs:
        if value.shape is None or not value.shape.is_static():
            raise ExportError(
                f"{source.name}: the size of {value.name} depends on what is in the inputs "
                f"({', '.join(unsettled[:3]) or 'unknown operators'}), so it cannot be fixed.",
                hint="Use the graph that takes any size.",
            )
    for state in states.values():
        _keep_last(model, state)
    given = {str(value.name): cast("ir.Shape", value.shape) for value in model.graph.outputs}
    axes = {spec.name: spec.axes for spec in (*inputs, *outputs)}
    axes |= {name: axes[state.past] for name, state in states.items()}
    return FixedGraph(
        model, axes,
        tuple(TensorSpec(spec.name, spec.dtype, tuple(evaluate(axis, sizes) for axis in spec.axes)) for spec in inputs),
        tuple(TensorSpec(spec.name, spec.dtype, tuple(int(size) for size in given[spec.name])) for spec in outputs),
        next((state.axis for state in states.values()), None), unsettled,
    )  # fmt: skip


def _fold(model: ir.Model, source: Path) -> tuple[str, ...]:
    """Fold what is constant at these sizes; the values whose size is not.

    What is folded gives shapes to what comes behind it, and a shape makes more of it constant.
    """
    before = -1
    for _ in range(_ROUNDS):
        simplify(model, weights_stay=True)
        unsettled = measure_shapes(model, source)
        nodes = list(model.graph.all_nodes())
        if len(nodes) == before or not (unsettled or any(node.op_type == "Shape" for node in nodes)):
            break
        before = len(nodes)
    return unsettled


@dataclass(frozen=True)
class _State:
    """A past that grows.

    Attributes:
        past, present: names of the input and the output.
        axis: name of the axis that grows.
        place: its place.
        size: of the window.
        tokens: by how much a call makes it longer.
    """

    past: str
    present: str
    axis: str
    place: int
    size: int
    tokens: int


def _of_all_tokens(component: Component) -> tuple[TensorSpec, ...]:
    """Outputs of the graph when it gives the logits of all tokens."""
    if not any(spec.name == NUM_LOGITS_TO_KEEP for spec in component.inputs):
        return component.outputs
    tokens = next(
        spec.axes[1] for spec in component.inputs if spec.name in ("input_ids", "decoder_input_ids", "inputs_embeds")
    )
    return tuple(
        TensorSpec(spec.name, spec.dtype, tuple(tokens if axis == NUM_LOGITS else axis for axis in spec.axes))
        for spec in component.outputs
    )


def _states(
    source: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], sizes: Mapping[str, int]
) -> dict[str, _State]:
    """Output name -> the state that is longer in it than in its input."""
    made = {spec.name: spec for spec in outputs}
    found = {}
    for spec in inputs:
        present = present_name(spec.name)
        if not is_past(spec.name) or present not in made:
            continue
        for place, (before, after) in enumerate(zip(spec.axes, made[present].axes, strict=True)):
            if before == after:
                continue
            size, tokens = evaluate(before, sizes), evaluate(after, sizes) - evaluate(before, sizes)
            if not isinstance(before, str) or ".encoder." in spec.name or tokens < 1:
                raise ExportError(
                    f"{source.name}: {spec.name} has another size in the first call than in later ones, so one graph "
                    "of fixed sizes cannot make both.",
                    hint="Use the graph that takes any size.",
                )
            found[present] = _State(spec.name, present, before, place, size, tokens)
    short = next((state for state in found.values() if state.size < state.tokens), None)
    if short is not None:
        raise UsageError(
            f"{source.name}: {short.axis}={short.size} is less than the {short.tokens} tokens of a call, whose keys "
            "and values would not fit.",
            hint=f"Give {short.axis} at least {short.tokens}.",
        )
    return found


def _give_sizes(model: ir.Model, inputs: tuple[TensorSpec, ...], sizes: Mapping[str, int]) -> None:
    """Numbers for the axes of inputs; what was said about the shapes behind them is forgotten."""
    import onnx_ir as ir

    axes = {spec.name: spec.axes for spec in inputs}
    for value in list(model.graph.inputs):
        if value.name in axes:
            value.shape = ir.Shape([evaluate(axis, sizes) for axis in axes[value.name]])
        else:  # with a default, which it has for ever now: the logits of all tokens
            model.graph.inputs.remove(value)
    for node in model.graph.all_nodes():
        for output in node.outputs:
            output.shape = None
    for output in model.graph.outputs:
        output.shape = None


def _with_mask(
    source: Path, model: ir.Model, inputs: tuple[TensorSpec, ...], sizes: Mapping[str, int],
    states: Mapping[str, _State], tokens: int,
) -> tuple[TensorSpec, ...]:  # fmt: skip
    """The inputs with a mask over window and new tokens: what hides unused places."""
    size = next(iter(states.values())).size
    whole = size + tokens
    mask = next((spec for spec in inputs if spec.name == MASK), None)
    if mask is not None and [evaluate(axis, sizes) for axis in mask.axes[1:]] == [whole]:
        return inputs
    if mask is None and hide_unused(model, {state.past for state in states.values()}, whole):
        first = next(spec for spec in inputs if spec.name in {state.past for state in states.values()})
        axis = next(iter(states.values())).axis
        return (*inputs, TensorSpec(MASK, "int64", (first.axes[0], f"{axis} + {tokens}")))
    raise ExportError(
        f"{source.name}: it has no {MASK} over past and new tokens, and its past does not go into the Attention "
        "operator, where one could be added: unused places of a cache of a fixed size could not be hidden.",
        hint="Use the graph that takes any size.",
    )


def _keep_last(model: ir.Model, state: _State) -> None:
    """The output gives its last places alone, as many as the input has."""
    import onnx_ir as ir

    place, whole = next((n, v) for n, v in enumerate(model.graph.outputs) if v.name == state.present)
    bounds = []
    for what, number in (("start", state.tokens), ("end", 2**62), ("axis", state.place)):
        name = f"window.{what}.{number}"
        if name not in model.graph.initializers:
            tensor = ir.tensor(np.array([number], np.int64), name=name)
            value = ir.Value(
                name=name, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor
            )  # fmt: skip
            model.graph.register_initializer(value)
        bounds.append(model.graph.initializers[name])
    whole.name = f"{state.present}.whole"
    node = ir.node("Slice", [whole, *bounds], name=f"{state.present}.window")
    kept = node.outputs[0]
    kept.name, kept.type = state.present, whole.type
    sizes = list(cast("ir.Shape", whole.shape))
    sizes[state.place] = state.size
    kept.shape = ir.Shape(sizes)
    model.graph.append(node)
    model.graph.outputs[place] = kept
