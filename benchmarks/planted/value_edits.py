"""What takes the place of a value in a graph: masks, positions, caches and images that are wrong at some sizes only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from benchmarks.planted.graph_edits import Builder, graph_input, insert

Build = Callable[[Builder, ir.Value], ir.Value]


def ones_beyond(axis: int, most: int) -> Build:
    """Integers are 1 where an axis has more than `most` places."""

    def build(b: Builder, value: ir.Value) -> ir.Value:
        beyond = b("Greater", b.size(value, axis), b.constant([most]))
        one = b("CastLike", b.constant(1), value)
        return b("Where", beyond, one, value)

    return build


def zero_for_one_row(b: Builder, value: ir.Value) -> ir.Value:
    """Integers are 0 where there is one row only."""
    several = b("Greater", b.size(value, 0), b.constant([1]))
    return b("Where", several, value, b("CastLike", b.constant(0), value))


def shifted_from(first: int, by: int = -1) -> Build:
    """Integers from `first` on are shifted: a table that is off by one from there on."""
    return lambda b, value: b(
        "Where", b("GreaterOrEqual", value, b.constant(first)), b("Add", value, b.constant(by)), value
    )


def through_int8(b: Builder, value: ir.Value) -> ir.Value:
    """Integers wrap at 128."""
    return b("Cast", b("Cast", value, to=int(ir.DataType.INT8)), to=int(ir.DataType.INT64))


def through_bfloat16(b: Builder, value: ir.Value) -> ir.Value:
    return b("Cast", b("Cast", value, to=int(ir.DataType.BFLOAT16)), to=int(ir.DataType.FLOAT))


def rolled(axis: int) -> Build:
    """All places of an axis one further, the last one first."""

    def build(b: Builder, value: ir.Value) -> ir.Value:
        last = b("Slice", value, b.constant([-1]), b.constant([2**31]), b.constant([axis]))
        others = b("Slice", value, b.constant([0]), b.constant([-1]), b.constant([axis]))
        return b("Concat", last, others, axis=axis)

    return build


def reversed_channels(axis: int) -> Build:
    """Blue, green and red in the places of red, green and blue."""
    return lambda b, value: b("Gather", value, b.constant([2, 1, 0]), axis=axis)


def flipped_sides(axis: int) -> Build:
    """The places of an axis in the other order: an image upside down or mirrored."""
    return lambda b, value: b(
        "Slice", value, b.constant([-1]), b.constant([-(2**31)]), b.constant([axis]), b.constant([-1])
    )


def with_mean_of_rows(part: float) -> Build:
    """A small part of the mean over all rows is added to each."""

    def build(b: Builder, value: ir.Value) -> ir.Value:
        mean = b("ReduceMean", value, b.constant([0]), keepdims=1)
        return b("Add", value, b("Mul", mean, b.constant(part, np.float32)))

    return build


def shifted_with_past(positions: str, past: str, axis: int) -> Callable[[ir.Model], None]:
    """Positions are one further where there is a past."""

    def plant(model: ir.Model) -> None:
        cache = graph_input(past)(model)

        def build(b: Builder, value: ir.Value) -> ir.Value:
            has_past = b("Cast", b("Greater", b.size(cache, axis), b.constant([0])), to=int(ir.DataType.INT64))
            return b("Add", value, has_past)

        insert(graph_input(positions), build)(model)

    return plant


def exchanged_heads(heads: int, axis: int = -1) -> Callable[[np.ndarray], np.ndarray]:
    """The columns (or rows) of the first two heads of a projection change places."""

    def change(values: np.ndarray) -> np.ndarray:
        split = np.moveaxis(values, axis, 0)
        parts = list(np.split(split, heads))
        parts[0], parts[1] = parts[1], parts[0]
        return np.ascontiguousarray(np.moveaxis(np.concatenate(parts), 0, axis))

    return change
