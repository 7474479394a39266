"""Find the inputs and outputs of a model, which of their axes are dynamic, and how they depend on each other.

The preprocessing and the model are run at several sizes. An input axis is named after the dynamic dimension
(`DynamicDim`) that changes it. An output axis is an expression of input axes (`axes.fit`). If the model refuses sizes,
the axis is static, or a multiple of a number, and the model's own error is recorded as the reason. There is no code for
single architectures.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
from onnxport.specs import Limit, Restriction, TensorSpec
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    from onnxport.sources.base import Source

_WANTED = 2  # sizes per dimension that must work, besides the base size
IMAGE_SIDES = ("height", "width")
_PREPROCESSED = "the preprocessing always gives this size"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph and what is known about their axes.

    Attributes:
        inputs: inputs; static axes are numbers, dynamic axes are names.
        outputs: outputs; dynamic axes are names or expressions of input axes.
        restrictions: rules for the sizes of axes, with reasons.
        accepted: dynamic dimension -> sizes that the model accepted, the base size first.
        multiples: dynamic dimension -> number that its sizes must be a multiple of; 1 is no restriction.
        traced: sizes at which the model is traced; other than the base sizes if possible.
        sample: the inputs at these sizes.
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
        """Return the sizes of the named input axes in `arrays`.

        Args:
            arrays: inputs by name.
        """
        return axis_values(self.inputs, arrays)

    def restricted(self, restrictions: Sequence[Restriction]) -> Signature:
        """Return the signature with further restrictions; they replace those of the same kind on the same axis.

        Args:
            restrictions: rules for the sizes of axes.
        """
        ruled = {(r.axis, r.limit) for r in restrictions if r.limit is not Limit.NOTE}
        kept = [r for r in self.restrictions if (r.axis, r.limit) not in ruled and r not in restrictions]
        return replace(self, restrictions=(*kept, *restrictions))


@dataclass
class _Prober:
    """Runs the source at given sizes and caches the output shapes."""

    source: Source
    generator: InputGenerator
    base: Sizes
    seen: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def outputs(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Return the output shapes at `sizes`."""
        key = tuple(sizes.values())
        if key not in self.seen:
            self.seen[key] = self.source.shapes(self.generator.make(sizes))
        return self.seen[key]

    def along(self, dim: str, output: str, axis: int) -> Callable[[int], int | None]:
        """Return a function from the size of a dimension to an output axis' length, None where the model fails."""

        def probe(size: int) -> int | None:
            try:
                return self.outputs({**self.base, dim: size})[output][axis]
            except Exception:  # models fail at unsupported sizes with any exception
                return None

        return probe

    def along_frames(self, dim: DynamicDim, output: str, axis: int) -> Callable[[int], int | None]:
        """Return the same as a function of the derived axis: the number of frames that the preprocessing makes."""

        def frames(size: int) -> int:
            try:
                made = next(iter(self.generator.make({**self.base, dim.name: size}).values()))
            except Exception:  # the input is too short for one frame
                return 0
            return int(made.shape[dim.derived_axis_index])

        def probe(wanted: int) -> int | None:
            last = self.base[dim.name]
            while frames(last) < wanted:
                last *= 2
            size = bisect_left(range(last + 1), wanted, key=frames)
            return self.along(dim.name, output, axis)(size) if frames(size) == wanted else None

        return probe


def infer_signature(source: Source, generator: InputGenerator, known: Sequence[Restriction] = ()) -> Signature:
    """Probe `source` with inputs of `generator`.

    Args:
        source: the model.
        generator: makes its inputs.
        known: restrictions that hold already; sizes that break them are not tried.

    Raises:
        ExportError: the model runs at none of the sizes that were tried.
    """
    fixed = {r.axis: r.reason for r in known if r.limit is Limit.FIXED}
    ruled = {r.axis: int(r.operand) for r in known if r.limit is Limit.MULTIPLE}
    tied = {r.axis: str(r.operand) for r in known if r.limit is Limit.EQUAL}
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
            restrictions.append(_fixed(dim, prober.base[dim.name], refusal or dim.why_static, first))
            continue
        accepted[dim.name] = (prober.base[dim.name], *sizes)
        multiples[dim.name] = ruled.get(dim.name, 1)
        if refused and dim.name not in ruled:
            multiples[dim.name] = step
            restrictions.append(Restriction(dim.name, Limit.MULTIPLE, step, refusal))
        if dim.maximum is not None:
            reason = "limit of the tokenizer or the configuration"
            restrictions.append(Restriction(dim.name, Limit.AT_MOST, dim.maximum, reason))
    inputs = _name_inputs(prober, accepted, first)
    restrictions = _in_axis_names(restrictions, inputs)
    outputs = _name_outputs(prober, accepted, inputs, reference)
    traced = _traced_sizes(prober, accepted)
    return Signature(
        inputs, outputs, tuple(restrictions), accepted, multiples, traced, generator.make(traced), generator
    )


def axis_values(specs: Sequence[TensorSpec], arrays: Arrays) -> Sizes:
    """Return the sizes of the named axes of `specs` in `arrays`.

    Args:
        specs: inputs or outputs.
        arrays: arrays by name.
    """
    values: Sizes = {}
    for spec in specs:
        for axis, name in enumerate(spec.axes):
            if isinstance(name, str) and spec.name in arrays:
                values[name] = int(arrays[spec.name].shape[axis])
    return values


def _start(source: Source, generator: InputGenerator) -> tuple[_Prober, Arrays, Arrays]:
    """Run the model at the first sizes that work; return the prober, the inputs and the outputs."""
    base = base_sizes(generator)
    attempts = [base, *({**base, k.name: size} for k in generator.dims for size in k.probe_sizes)]
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
        f"{source.architecture} does not run on {getattr(made, 'description', 'inputs from its own preprocessing')}: "
        f"{first_line(failure)}.",
        hint=getattr(made, "hint", "Check that the checkpoint and its tokenizer or processor belong together."),
    ) from failure


def _accepted_sizes(prober: _Prober, dim: DynamicDim, first: Arrays) -> tuple[list[int], list[int], str]:
    """Return the sizes of a dimension that the model accepts besides the base, those it refuses, and the first error.

    If a refused size is a multiple of all accepted sizes, these were accepted by accident (a reshape that happens to
    work). The caller makes such a dimension static.
    """
    accepted: list[int] = []
    refused: list[int] = []
    refusal = ""
    for size in dim.probe_sizes:
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
    """Return image axes at whose sizes the model's code takes different paths, with the reason.

    Such a model (Swin pads at some sizes, in each stage) cannot be one graph for all sizes, and torch needs minutes to
    find that out. The operators that run at two sizes show it at once. A shortcut for the size of the position table
    does not count: only sizes other than the processor's are compared.
    """
    for dim in prober.generator.dims:
        if dim.name not in IMAGE_SIDES or dim.name in fixed:
            continue
        sizes, refused, _ = _accepted_sizes(prober, dim, first)
        if len(sizes) < _WANTED or refused:
            continue
        samples = [prober.generator.make({**prober.base, dim.name: size}) for size in (*sizes, sizes[0])]
        traces = prober.source.paths(samples)
        if traces[0] == traces[2] and traces[0] != traces[1]:  # the same size twice, to exclude randomness
            reason = (
                f"the model's code takes another path at another {dim.name} "
                f"({len(traces[0])} operators at {sizes[0]}, {len(traces[1])} at {sizes[1]})"
            )
            return dict.fromkeys(IMAGE_SIDES, reason)  # an image with one dynamic side is of no use
    return {}


def _fixed(dim: DynamicDim, size: int, reason: str, first: Arrays) -> Restriction:
    if reason == _PREPROCESSED and dim.derived_axis:
        # Audio of any length becomes this number of frames: that axis is static, the length of the audio is not.
        frames = next(iter(first.values())).shape[dim.derived_axis_index]
        return Restriction(dim.derived_axis, Limit.FIXED, int(frames), reason)
    return Restriction(dim.name, Limit.FIXED, size, reason or "only this size was tried")


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
                axes.append(name if exact else joint or dims[name].derived_axis or _unnamed(tensor, axis))
            else:
                axes.append(prober.generator.joint_axes.get((tensor, axis), _unnamed(tensor, axis)))
        specs.append(TensorSpec(tensor, array.dtype.name, tuple(axes)))
    return tuple(specs)


def _in_axis_names(restrictions: list[Restriction], inputs: tuple[TensorSpec, ...]) -> list[Restriction]:
    """Drop restrictions on dimensions that are no axis of an input (the size of an image before it is resized)."""
    named = {axis for spec in inputs for axis in spec.axes if isinstance(axis, str)}
    return [r for r in restrictions if r.limit is Limit.FIXED or r.axis in named]


def _name_outputs(
    prober: _Prober, accepted: dict[str, tuple[int, ...]], inputs: tuple[TensorSpec, ...], reference: Arrays
) -> tuple[TensorSpec, ...]:
    points = [prober.base]
    points += [{**prober.base, name: size} for name, sizes in accepted.items() for size in sizes[1:]]
    points.append({**prober.base, **{name: sizes[-1] for name, sizes in accepted.items()}})
    points.append({**prober.base, **{name: sizes[1] for name, sizes in accepted.items()}})
    # An axis that is halved and doubled again is unchanged only at even sizes.
    points += [{**prober.base, name: sizes[0] + 1} for name, sizes in accepted.items() if math.gcd(*sizes) > 1]
    joint = set(prober.generator.joint_axes.values())
    seen: list[tuple[Sizes, dict[str, tuple[int, ...]]]] = []
    for sizes in points:
        try:
            shapes = prober.outputs(sizes)
        except Exception:  # sizes that work separately may fail in combination
            continue
        values = axis_values(inputs, prober.generator.make(sizes))
        # A joint axis follows from other axes, so it must not be used in expressions.
        seen.append(({name: value for name, value in values.items() if name not in joint}, shapes))
    dims = {dim.name: dim for dim in prober.generator.dims if dim.name in accepted}
    named = {axis for spec in inputs for axis in spec.axes if isinstance(axis, str)}
    specs = []
    for name, array in reference.items():
        axes: list[int | str] = []
        for axis in range(array.ndim):
            observations = [Observation(sizes, shapes[name][axis]) for sizes, shapes in seen]
            probes = {dim: prober.along(dim, name, axis) for dim in accepted if dim in named}
            probes |= {
                dim.derived_axis: prober.along_frames(dim, name, axis)
                for dim in dims.values()
                if dim.derived_axis in named
            }
            found = fit(observations, probes)
            axes.append(_unnamed(name, axis) if found is None else found)
        specs.append(TensorSpec(name, array.dtype.name, tuple(axes)))
    return tuple(specs)


def _unnamed(tensor: str, axis: int) -> str:
    return f"{tensor}_dim_{axis}".replace(".", "_")  # names in expressions must be identifiers


def _traced_sizes(prober: _Prober, accepted: dict[str, tuple[int, ...]]) -> Sizes:
    """Return the sizes to trace at.

    Image models take a shortcut if the image has the size of the position table, or is square. A trace at such a size
    would record the shortcut. So height and width differ from the base and from each other.
    """
    traced = dict(prober.base)
    for name in IMAGE_SIDES:
        if name in accepted:
            traced[name] = accepted[name][1]
    if {"height", "width"} <= accepted.keys() and traced["height"] == traced["width"]:
        traced["width"] = accepted["width"][-1]
    try:
        prober.outputs(traced)
    except Exception:  # use the base sizes
        return dict(prober.base)
    return traced
