"""Faults in the operators of a finished graph in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.planted.fault import NothingToPlantError

Plant = Callable[[ir.Model], None]


def nodes(model: ir.Model, operator: str) -> list[ir.Node]:
    found = [node for node in model.graph if re.fullmatch(operator, node.op_type)]
    if not found:
        raise NothingToPlantError(f"no operator {operator}")
    return found


def attribute(operator: str, name: str, value: Any, number: int | None = 0) -> Plant:
    """Set an attribute of one node, or of all (`number=None`); a callable gets the value that is there."""

    def plant(model: ir.Model) -> None:
        found = nodes(model, operator)
        for node in found if number is None else [found[number]]:
            before = node.attributes[name].value if name in node.attributes else None
            after = value(before) if callable(value) else value
            kind = {str: ir.AttrString, float: ir.AttrFloat32, int: ir.AttrInt64}[type(after)]
            node.attributes[name] = kind(name, after)

    return plant


def operator(before: str, after: str, number: int | None = 0) -> Plant:
    """Another operator in the place of one; or of all (`number=None`)."""

    def plant(model: ir.Model) -> None:
        found = nodes(model, before)
        for node in found if number is None else [found[number]]:
            node.op_type = after

    return plant


def bypass(kind: str, number: int = 0, keep: int = 0) -> Plant:
    """Leave a node out: its output is its input number `keep`."""

    def plant(model: ir.Model) -> None:
        node = nodes(model, kind)[number]
        source = node.inputs[keep]
        assert source is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], source)

    return plant


def swap_inputs(kind: str, first: int, second: int, number: int = 0) -> Plant:
    """Exchange two inputs of a node."""

    def plant(model: ir.Model) -> None:
        node = nodes(model, kind)[number]
        one, other = node.inputs[first], node.inputs[second]
        node.replace_input_with(first, other)
        node.replace_input_with(second, one)

    return plant


def swap_outputs(first: int, second: int) -> Plant:
    """Exchange two outputs of the graph; names stay in place."""

    def plant(model: ir.Model) -> None:
        outputs = model.graph.outputs
        one, other = outputs[first], outputs[second]
        one.name, other.name = f"{other.name} ", one.name
        one.name = (one.name or "").strip()
        outputs[first], outputs[second] = other, one

    return plant


class Builder:
    """Adds nodes after a value, and puts what they compute in its place.

    Args:
        value: what is replaced.
        shapes: what sizes are read from; the value by default.
    """

    def __init__(self, model: ir.Model, value: ir.Value) -> None:
        self.model, self.value = model, value
        self.made: list[ir.Node] = []

    def __call__(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        node = ir.node(kind, list(inputs), attributes=attributes)
        node.outputs[0].name = f"planted_{len(self.made)}"
        self.made.append(node)
        return node.outputs[0]

    def constant(self, value: Any, dtype: Any = np.int64) -> ir.Value:
        return self("Constant", value=ir.tensor(np.array(value, dtype)))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """The size of an axis, a vector of one number."""
        return self("Shape", value, start=axis, end=axis + 1)

    def finish(self, result: ir.Value, uses: list[Any]) -> None:
        """Put `result` in the place of the value for those uses."""
        for node, index in uses:
            node.replace_input_with(index, result)
        result.dtype, result.shape = self.value.dtype, self.value.shape
        producer = self.value.producer()
        if producer is not None:
            self.model.graph.insert_after(producer, self.made)
        else:
            self.model.graph.insert_before(self.model.graph[0], self.made)


def insert(find: Callable[[ir.Model], ir.Value], build: Callable[[Builder, ir.Value], ir.Value]) -> Plant:
    """Replace all uses of a value by what `build` makes of it."""

    def plant(model: ir.Model) -> None:
        value = find(model)
        uses = list(value.uses())
        if not uses:
            raise NothingToPlantError(f"nothing uses {value.name}")
        builder = Builder(model, value)
        builder.finish(build(builder, value), uses)

    return plant


def graph_input(name: str) -> Callable[[ir.Model], ir.Value]:
    def find(model: ir.Model) -> ir.Value:
        for value in model.graph.inputs:
            if value.name == name:
                return value
        raise NothingToPlantError(f"no input {name}")

    return find


def output_of(kind: str, number: int = 0, reads: str = "") -> Callable[[ir.Model], ir.Value]:
    """The output of a node, of those that read a value whose name matches."""

    def find(model: ir.Model) -> ir.Value:
        found = [
            node for node in nodes(model, kind)
            if not reads or any(value is not None and re.search(reads, value.name or "") for value in node.inputs)
        ]  # fmt: skip
        if not found:
            raise NothingToPlantError(f"no {kind} of {reads}")
        return found[number].outputs[0]

    return find


def input_of(kind: str, index: int, number: int = 0, reads: str = "") -> Callable[[ir.Model], ir.Value]:
    """What a node reads."""

    def find(model: ir.Model) -> ir.Value:
        made = output_of(kind, number, reads)(model).producer()
        value = made.inputs[index] if made is not None and index < len(made.inputs) else None
        if value is None:
            raise NothingToPlantError(f"{kind} has no input {index}")
        return value

    return find


# What is built


def rows_mixed(beyond: int) -> Callable[[Builder, ir.Value], ir.Value]:
    """Rows from number `beyond` on are the first one."""

    def build(b: Builder, value: ir.Value) -> ir.Value:
        rows = b("Squeeze", b.size(value, 0))
        numbers = b("Range", b.constant(0), rows, b.constant(1))
        chosen = b("Where", b("GreaterOrEqual", numbers, b.constant(beyond)), b.constant(0), numbers)
        return b("Gather", value, chosen, axis=0)

    return build


def scaled_beyond(axis: int, most: int, factor: float = 1.05, at_least: bool = True) -> Any:
    """Floats x `factor` where an axis has more than `most` places, or at most that many."""

    def build(b: Builder, value: ir.Value) -> ir.Value:
        kind = "Greater" if at_least else "LessOrEqual"
        beyond = b(kind, b.size(value, axis), b.constant([most]))
        return b("Mul", value, b("Where", beyond, b.constant([factor], np.float32), b.constant([1.0], np.float32)))

    return build


def scaled_by(other: str, axis: int, most: int, factor: float = 1.05) -> Plant:
    """The first hidden states x `factor` where the input `other` has more than `most` places on an axis."""

    def plant(model: ir.Model) -> None:
        measured = graph_input(other)(model)

        def build(b: Builder, value: ir.Value) -> ir.Value:
            beyond = b("Greater", b.size(measured, axis), b.constant([most]))
            return b("Mul", value, b("Where", beyond, b.constant([factor], np.float32), b.constant([1.0], np.float32)))

        insert(output_of("Gather", reads="embed|wte|shared|proj_out"), build)(model)

    return plant


def last_place_lost(beyond: int) -> Callable[[Builder, ir.Value], ir.Value]:
    """The places of a mask (batch, places) from number `beyond` on are 0."""

    def build(b: Builder, value: ir.Value) -> ir.Value:
        places = b("Range", b.constant(0), b("Squeeze", b.size(value, 1)), b.constant(1))
        kept = b("Less", places, b.constant(beyond))
        return b("Where", kept, value, b("Cast", b.constant(0), to=int(value.dtype or ir.DataType.INT64)))

    return build


def clamped(most: int) -> Callable[[Builder, ir.Value], ir.Value]:
    """Integers are at most that."""
    return lambda b, value: b("Min", value, b.constant(most))


def times(factor: float, dtype: Any = np.float32) -> Callable[[Builder, ir.Value], ir.Value]:
    return lambda b, value: b("Mul", value, b.constant(factor, dtype))


def plus(number: float, dtype: Any = np.float32) -> Callable[[Builder, ir.Value], ir.Value]:
    return lambda b, value: b("Add", value, b.constant(number, dtype))


def as_constant(number: float, dtype: Any = np.int64) -> Callable[[Builder, ir.Value], ir.Value]:
    """The input is dropped: the same number everywhere."""
    return lambda b, value: b("Expand", b.constant(number, dtype), b("Shape", value))


def through(kind: int) -> Callable[[Builder, ir.Value], ir.Value]:
    """Cast to a narrower type and back."""
    return lambda b, value: b("Cast", b("Cast", value, to=kind), to=1)


def clipped(most: float) -> Callable[[Builder, ir.Value], ir.Value]:
    """Floats are at most that."""
    return lambda b, value: b("Min", value, b.constant(most, np.float32))


def positions_off(b: Builder, value: ir.Value) -> ir.Value:
    """Integers + 1."""
    return b("Add", value, b.constant(1))


# Whole edits


def first_input(model: ir.Model) -> ir.Value:
    return model.graph.inputs[0]


def last_float_before_flatten(model: ir.Model) -> ir.Value:
    """What the last layer reads."""
    node = nodes(model, "Gemm|MatMul")[-1]
    assert node.inputs[0] is not None
    return node.inputs[0]


def without_output(name: str) -> Plant:
    """The graph has one output less."""

    def plant(model: ir.Model) -> None:
        for index, value in enumerate(model.graph.outputs):
            if value.name == name:
                del model.graph.outputs[index]
                return
        raise NothingToPlantError(f"no output {name}")

    return plant


def swap_inputs_of_graph(first: str, second: str) -> Plant:
    """Two inputs are read in each other's place."""

    def plant(model: ir.Model) -> None:
        one, other = graph_input(first)(model), graph_input(second)(model)
        uses = list(one.uses()), list(other.uses())
        for node, index in uses[0]:
            node.replace_input_with(index, other)
        for node, index in uses[1]:
            node.replace_input_with(index, one)

    return plant


def bypass_last(kind: str) -> Plant:
    """The output of the last node of a kind, which is the graph's, is what it reads."""

    def plant(model: ir.Model) -> None:
        node = nodes(model, kind)[-1]
        source = node.inputs[0]
        assert source is not None
        node.op_type = "Identity"
        node.resize_inputs(1)

    return plant


def mask_of_pooling_ignored(model: ir.Model) -> None:
    """The mask that weighs tokens in a mean is all ones."""
    value = graph_input("attention_mask")(model)
    uses = [(node, index) for node, index in value.uses() if node.op_type == "Unsqueeze"]
    if not uses:
        raise NothingToPlantError("no pooling reads the mask")
    builder = Builder(model, value)
    builder.finish(as_constant(1)(builder, value), uses[-1:])


def scaled_output_layer(model: ir.Model) -> None:
    """What the output layer reads x 1.0005."""
    insert(output_of("RMSNormalization", -1), times(1.0005))(model)


def shifted_padding(model: ir.Model) -> None:
    """A padded convolution pads one side by one more, and the other by one less."""
    for node in nodes(model, "Conv"):
        pads = list(node.attributes["pads"].value) if "pads" in node.attributes else []
        if any(pads):
            half = len(pads) // 2
            pads[0], pads[half] = pads[0] - 1, pads[half] + 1
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            return
    raise NothingToPlantError("no padded convolution")
