"""`infer_shapes`: which inputs and outputs a model has, and which of their axes move with what.

The preprocessing and the model are run at several sizes. An input axis gets the name of the
knob that moves it; an output axis is an expression of input axes (`axes.fit`). A size that the
model refuses leaves its axis static, or bound to a multiple, with the model's own words as the
reason. No architecture has code here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxport.axes import Observation, fit
from onnxport.dummy_inputs.base import (
    Arrays,
    DynamicDim,
    InputGenerator,
    RestrictedInputGenerator,
    Sizes,
    base_sizes,
    unrestricted,
)
from onnxport.errors import ExportError, OnnxPortError
from onnxport.specs import Restriction, TensorSpec
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    from onnxport.sources.base import Source

_WANTED = 2  # accepted sizes a knob, beside the base
_SIDES = ("height", "width")
_PREPROCESSED = "the preprocessing always gives this size"


@dataclass(frozen=True)
class Signature:
    """The tensors of a graph and what is known about their axes.

    Attributes:
        inputs, outputs: with static axes as numbers, dynamic ones as names or expressions.
        restrictions: axes that are not free, and why.
        accepted: per dynamic knob the sizes that the model took, base first.
        multiples: per knob the number that its sizes must be a multiple of (1 = free).
        traced: knob sizes of the sample that is traced; away from special sizes where it can be.
        sample: the inputs at those sizes.
        generator: makes inputs that obey the restrictions.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    restrictions: tuple[Restriction, ...]
    accepted: dict[str, tuple[int, ...]]
    multiples: dict[str, int]
    traced: Sizes
    sample: Arrays
    generator: InputGenerator

    def sizes_of(self, arrays: Arrays) -> Sizes:
        """Values of the named input axes in `arrays`."""
        return axis_values(self.inputs, arrays)


@dataclass
class _Prober:
    """Runs the source at knob sizes; remembers what it saw."""

    source: Source
    generator: InputGenerator
    base: Sizes
    seen: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def outputs(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        key = tuple(sizes.values())
        if key not in self.seen:
            self.seen[key] = self.source.shapes(self.generator.make(sizes))
        return self.seen[key]

    def along(self, dim: str, output: str, axis: int) -> Callable[[int], int | None]:
        """Length of an output axis as a function of one knob; None where the model refuses."""

        def probe(size: int) -> int | None:
            try:
                return self.outputs({**self.base, dim: size})[output][axis]
            except Exception:  # a refusal of any kind is the answer
                return None

        return probe

    def along_frames(self, dim: DynamicDim, output: str, axis: int) -> Callable[[int], int | None]:
        """The same as a function of what the preprocessing makes of the knob: the number of frames."""

        def frames(size: int) -> int:
            try:
                made = next(iter(self.generator.make({**self.base, dim.name: size}).values()))
            except Exception:  # too short for a single frame
                return 0
            return int(made.shape[dim.frames_axis])

        def probe(wanted: int) -> int | None:
            last = self.base[dim.name]
            while frames(last) < wanted:
                last *= 2
            size = bisect_left(range(last + 1), wanted, key=frames)
            return self.along(dim.name, output, axis)(size) if frames(size) == wanted else None

        return probe


def infer_signature(source: Source, generator: InputGenerator, known: Sequence[Restriction] = ()) -> Signature:
    """Probes `source` with samples of `generator`.

    Args:
        known: restrictions that hold already; no size that breaks one is tried.

    Raises:
        ExportError: the model does not run at any size that was tried.
    """
    fixed = {r.axis: r.reason for r in known if r.rule.startswith("fixed at")}
    ruled = {r.axis: int(r.rule.split()[-1]) for r in known if r.rule.startswith("multiple of")}
    tied = {r.axis: r.rule.split()[-1] for r in known if r.rule.startswith("equal to")}
    generator = RestrictedInputGenerator(generator, ruled, tied)
    prober, first, reference = _start(source, generator)
    accepted: dict[str, tuple[int, ...]] = {}
    multiples: dict[str, int] = {}
    restrictions: list[Restriction] = [r for r in known if r.axis in tied or r.axis in ruled]
    fixed |= _path_dependent(prober, first, fixed)
    for dim in generator.dims:
        if dim.name in fixed:
            restrictions.append(_fixed(dim, prober.base[dim.name], fixed[dim.name], first))
            continue
        sizes, refused, refusal = _accepted_sizes(prober, dim, first)
        step = math.gcd(prober.base[dim.name], *sizes)
        if not sizes or any(size % step == 0 for size in refused):
            restrictions.append(_fixed(dim, prober.base[dim.name], refusal or dim.why_fixed, first))
            continue
        accepted[dim.name] = (prober.base[dim.name], *sizes)
        multiples[dim.name] = ruled.get(dim.name, 1)
        if refused and dim.name not in ruled:
            multiples[dim.name] = step
            restrictions.append(Restriction(dim.name, f"multiple of {step}", refusal))
        if dim.maximum is not None:
            reason = "the tokenizer's or the configuration's limit"
            restrictions.append(Restriction(dim.name, f"at most {dim.maximum}", reason))
    inputs = _name_inputs(prober, accepted, first)
    restrictions = _in_axis_names(restrictions, inputs)
    outputs = _name_outputs(prober, accepted, inputs, reference)
    traced = _traced_sizes(prober, accepted)
    return Signature(
        inputs, outputs, tuple(restrictions), accepted, multiples, traced, generator.make(traced), generator
    )


def axis_values(specs: Sequence[TensorSpec], arrays: Arrays) -> Sizes:
    """Values of the named axes of `specs` in `arrays`."""
    values: Sizes = {}
    for spec in specs:
        for axis, name in enumerate(spec.axes):
            if isinstance(name, str) and spec.name in arrays:
                values[name] = int(arrays[spec.name].shape[axis])
    return values


def _start(source: Source, generator: InputGenerator) -> tuple[_Prober, Arrays, Arrays]:
    """The first sizes at which the model runs, for real."""
    base = base_sizes(generator)
    attempts = [base, *({**base, k.name: size} for k in generator.dims for size in k.others)]
    failure: Exception | None = None
    for sizes in attempts:
        try:
            inputs = generator.make(sizes)
            return _Prober(source, generator, sizes), inputs, source.run(inputs)
        except OnnxPortError:
            raise
        except Exception as error:  # models refuse sizes with any exception
            failure = failure or error
    made = unrestricted(generator)
    raise ExportError(
        f"{source.architecture} does not run on {getattr(made, 'made', 'its own preprocessing')}: "
        f"{first_line(failure)}.",
        hint=getattr(made, "advice", "Check that the checkpoint and its tokenizer or processor belong together."),
    ) from failure


def _accepted_sizes(prober: _Prober, dim: DynamicDim, first: Arrays) -> tuple[list[int], list[int], str]:
    """Sizes of a knob that the model takes beside the base, those that it refuses, and the first refusal.

    A size that is refused although it is a multiple of all that are taken shows that the others
    were taken by accident (a reshape that happens to fit): the caller fixes such a knob.
    """
    accepted: list[int] = []
    refused: list[int] = []
    refusal = ""
    for size in dim.others:
        if len(accepted) == _WANTED:
            break
        sizes = {**prober.base, dim.name: size}
        if sizes == prober.base:
            continue
        try:
            inputs = prober.generator.make(sizes)
            if all(inputs[name].shape == array.shape for name, array in first.items()):
                return [], [], _PREPROCESSED
            prober.outputs(sizes)
        except Exception as error:  # processors and models refuse sizes with any exception
            refused.append(size)
            refusal = refusal or first_line(error)
        else:
            accepted.append(size)
    return accepted, refused, refusal


def _path_dependent(prober: _Prober, first: Arrays, fixed: dict[str, str]) -> dict[str, str]:
    """Sides of an image along which the model's code takes other paths, with the reason.

    Such a model (Swin pads or not, stage by stage) cannot be one graph for all sizes, and torch
    needs minutes to find that out. The operators that run at two sizes tell at once. The size of
    the position table is no such case: only sizes away from the processor's are compared.
    """
    for dim in prober.generator.dims:
        if dim.name not in _SIDES or dim.name in fixed:
            continue
        sizes, refused, _ = _accepted_sizes(prober, dim, first)
        if len(sizes) < _WANTED or refused:
            continue
        samples = [prober.generator.make({**prober.base, dim.name: size}) for size in (*sizes, sizes[0])]
        traces = prober.source.paths(samples)
        if traces[0] == traces[2] and traces[0] != traces[1]:  # the same size twice: else it is chance, not size
            reason = (
                f"the model's code takes another path at another {dim.name} "
                f"({len(traces[0])} operators at {sizes[0]}, {len(traces[1])} at {sizes[1]})"
            )
            return dict.fromkeys(_SIDES, reason)  # half of an image free helps nobody
    return {}


def _fixed(dim: DynamicDim, size: int, reason: str, first: Arrays) -> Restriction:
    if reason == _PREPROCESSED and dim.frames:
        # Sound of any length is made into so many frames: the axis is fixed, not the sound.
        return Restriction(dim.frames, f"fixed at {next(iter(first.values())).shape[dim.frames_axis]}", reason)
    return Restriction(dim.name, f"fixed at {size}", reason or "no other size was tried")


def _name_inputs(prober: _Prober, accepted: dict[str, tuple[int, ...]], first: Arrays) -> tuple[TensorSpec, ...]:
    moved: dict[tuple[str, int], dict[str, tuple[int, int]]] = {}
    dims = {dim.name: dim for dim in prober.generator.dims}
    for name, sizes in accepted.items():
        other = prober.generator.make({**prober.base, name: sizes[1]})
        for tensor, array in first.items():
            for axis, size in enumerate(array.shape):
                if other[tensor].shape[axis] != size:
                    moved.setdefault((tensor, axis), {})[name] = (size, other[tensor].shape[axis])
    specs = []
    for tensor, array in first.items():
        axes: list[int | str] = []
        for axis, size in enumerate(array.shape):
            movers = moved.get((tensor, axis), {})
            if not movers:
                axes.append(int(size))
            elif len(movers) == 1:
                (name, (before, after)) = next(iter(movers.items()))
                exact = before == prober.base[name] and after == accepted[name][1]
                joint = prober.generator.joint_axes.get((tensor, axis))
                axes.append(name if exact else joint or dims[name].frames or _unnamed(tensor, axis))
            else:
                axes.append(prober.generator.joint_axes.get((tensor, axis), _unnamed(tensor, axis)))
        specs.append(TensorSpec(tensor, array.dtype.name, tuple(axes)))
    return tuple(specs)


def _in_axis_names(restrictions: list[Restriction], inputs: tuple[TensorSpec, ...]) -> list[Restriction]:
    """Drop restrictions on knobs that reach no tensor at their own size (a resized image's raw size)."""
    named = {axis for spec in inputs for axis in spec.axes if isinstance(axis, str)}
    return [r for r in restrictions if r.rule.startswith("fixed") or r.axis in named]


def _name_outputs(
    prober: _Prober, accepted: dict[str, tuple[int, ...]], inputs: tuple[TensorSpec, ...], reference: Arrays
) -> tuple[TensorSpec, ...]:
    points = [prober.base]
    points += [{**prober.base, name: size} for name, sizes in accepted.items() for size in sizes[1:]]
    points.append({**prober.base, **{name: sizes[-1] for name, sizes in accepted.items()}})
    points.append({**prober.base, **{name: sizes[1] for name, sizes in accepted.items()}})
    # What is halved and doubled is the same at even sizes alone.
    points += [{**prober.base, name: sizes[0] + 1} for name, sizes in accepted.items() if math.gcd(*sizes) > 1]
    joint = set(prober.generator.joint_axes.values())
    seen: list[tuple[Sizes, dict[str, tuple[int, ...]]]] = []
    for sizes in points:
        try:
            shapes = prober.outputs(sizes)
        except Exception:  # sizes that work alone may not work together
            continue
        values = axis_values(inputs, prober.generator.make(sizes))
        # An axis that follows from others explains nothing that they do not.
        seen.append(({name: value for name, value in values.items() if name not in joint}, shapes))
    dims = {dim.name: dim for dim in prober.generator.dims if dim.name in accepted}
    named = {axis for spec in inputs for axis in spec.axes if isinstance(axis, str)}
    specs = []
    for name, array in reference.items():
        axes: list[int | str] = []
        for axis in range(array.ndim):
            observations = [Observation(sizes, shapes[name][axis]) for sizes, shapes in seen]
            probes = {dim: prober.along(dim, name, axis) for dim in accepted if dim in named}
            probes |= {dim.frames: prober.along_frames(dim, name, axis) for dim in dims.values() if dim.frames in named}
            found = fit(observations, probes)
            axes.append(_unnamed(name, axis) if found is None else found)
        specs.append(TensorSpec(name, array.dtype.name, tuple(axes)))
    return tuple(specs)


def _unnamed(tensor: str, axis: int) -> str:
    return f"{tensor}_dim_{axis}".replace(".", "_")  # expressions have plain names


def _traced_sizes(prober: _Prober, accepted: dict[str, tuple[int, ...]]) -> Sizes:
    """Sizes to trace at.

    Image models take a shortcut when the image has the size of the position table or is
    square; a trace at such a size would bake the shortcut in. So height and width are traced
    away from the base, and at different sizes.
    """
    traced = dict(prober.base)
    for name in ("height", "width"):
        if name in accepted:
            traced[name] = accepted[name][1]
    if {"height", "width"} <= accepted.keys() and traced["height"] == traced["width"]:
        traced["width"] = accepted["width"][-1]
    try:
        prober.outputs(traced)
    except Exception:  # then the base it is
        return dict(prober.base)
    return traced
