"""Capture a PyTorch model as an ONNX graph through `transformers.exporters.OnnxExporter`.

The axes of the signature are given as named dimensions, so that torch.export refuses a graph
in which one of them came out fixed instead of baking it in without a word. What it refuses with
("Suggested fixes") is applied, and recorded as a restriction.

Weights do not pass through the exporter: it sees placeholders, and the captured graph gets each
weight as a place in the checkpoint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxport.errors import ExportError
from onnxport.export.captured import Captured
from onnxport.export.decompositions import decomposed_where_needed
from onnxport.export.fixes import trace_fixes
from onnxport.export.guards import smallest_size
from onnxport.export.opset import LOWEST_CAPTURED
from onnxport.export.signature import Signature, axis_values, infer_signature
from onnxport.sources.pytorch.source import TorchSource, selected_outputs, without_cache
from onnxport.specs import Restriction
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    import onnx_ir

_ATTEMPTS = 8
# torch.export's own words, for example: "  sequence_length = Dim('sequence_length', max=512)",
# "  height = 224", "  height = 32*_height", "  width = height".
_SUGGESTION = re.compile(r"^\s+(?P<name>\w+) = (?P<fix>.+?)\s*$", re.MULTILINE)
# "Expected shape[2] = 41 of input Tensor to be of the form 16*_height, where _height is an integer"
_FORM = re.compile(r"to be of the form (\d+)\*_(\w+)")
_MULTIPLE = re.compile(r"(\d+)\*_\w+")  # of another axis than those that a user chooses
_VIOLATED = re.compile(r"onstraints violated \((.+?)\)")
_BOUNDS = re.compile(r"(min|max)=(\d+)")


@dataclass
class _Dims:
    """How each dynamic axis is declared to torch.export."""

    bounds: dict[str, dict[str, int]]
    multiples: dict[str, int]


def capture_pytorch(source: TorchSource, signature: Signature, opset: int) -> Captured:
    """Export `source` with the dynamic axes of `signature`.

    The graph is not simplified, and of opset 18 at least (`export.opset.require_opset` goes below).

    Raises:
        ExportError: torch cannot capture the model; nothing was written.
    """
    generator = signature.generator
    dims = _Dims(_known_bounds(signature) | _joint_bounds(signature), dict(signature.multiples))
    deferred = False
    for _ in range(_ATTEMPTS):
        try:
            program = _export(source, signature, dims, opset, deferred)
        except Exception as error:  # torch fails with any type; ours says what to do
            if not deferred and _learn_smallest(str(error), dims, signature):
                deferred = True
                continue
            learned = _learn(str(error), dims, signature)
            if learned:
                signature = infer_signature(source, generator, (*_lasting(signature), *learned))
                dims.multiples.update(signature.multiples)
            elif learned is None and not deferred:
                deferred = True  # guards on values become checks at run time, which ONNX does not carry
            elif learned is None:
                raise _failure(source, error) from error
        else:
            return Captured(program, _with_dims(signature, dims))
    raise ExportError(f"{source.architecture}: torch.export asked for ever new axis bounds.")


def _export(source: TorchSource, signature: Signature, dims: _Dims, opset: int, deferred: bool) -> onnx_ir.Model:
    from transformers.exporters import OnnxConfig

    from onnxport.weights.attach import attach
    from onnxport.weights.placeholders import new_mode, placeholders

    config = OnnxConfig(
        dynamic_shapes=_dynamic_shapes(signature, dims),
        opset_version=max(opset, LOWEST_CAPTURED),
        prefer_deferred_runtime_asserts_over_guards=deferred,
        optimize=False,  # placeholders look all alike: folded or merged they would be wrong
    )
    with (
        placeholders(source.model, new_mode()), selected_outputs(source), without_cache(source.model),
        trace_fixes(source.model), _grouped_heads(), _without_stack_traces(),
    ):  # fmt: skip
        sample = {_python_name(name): tensor for name, tensor in source.tensors(signature.sample).items()}
        program = _translated(source, sample, config)
    for value, spec in zip(program.graph.inputs, signature.inputs, strict=True):
        value.name = spec.name
    attach(program, source.model)
    return program


def _translated(source: TorchSource, sample: dict[str, Any], config: Any) -> onnx_ir.Model:
    """The program in ONNX's operators."""
    from transformers.exporters import OnnxExporter

    with decomposed_where_needed() as left_alone:
        try:
            return OnnxExporter().export(source.model, sample, config).program
        except Exception:  # of whatever type
            if not left_alone:
                raise
    return OnnxExporter().export(source.model, sample, config).program


@contextmanager
def _grouped_heads() -> Iterator[None]:
    """Keys and values keep their own, fewer heads; transformers repeats them by default where there is a mask."""
    switch = "TRANSFORMERS_SDPA_FORCE_GQA"  # transformers' own, read at every call
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        os.environ.pop(switch)
        if before is not None:
            os.environ[switch] = before


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """No source lines on the nodes of the trace: `graph.strip` drops them, and they cost a seventh of its time."""
    import torch.fx.config

    before = torch.fx.config.do_not_emit_stack_traces
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


def _python_name(name: str) -> str:
    """A name that the signature of a Python function may have: `past_key_values.0.key` is none."""
    return name.replace(".", "__")


def _dynamic_shapes(signature: Signature, dims: _Dims) -> dict[str, dict[int, Any]]:
    import torch

    made: dict[str, Any] = {}

    def dim(name: str) -> Any:
        if name not in made:
            multiple = dims.multiples.get(name, 1)
            if multiple > 1:
                made[name] = multiple * torch.export.Dim(f"_{name}", **dims.bounds.get(f"_{name}", {}))
            else:
                made[name] = torch.export.Dim(name, **dims.bounds.get(name, {}))
        return made[name]

    return {
        _python_name(spec.name): {
            axis: dim(size) if isinstance(size, str) else torch.export.Dim.STATIC for axis, size in enumerate(spec.axes)
        }
        for spec in signature.inputs
    }


def _known_bounds(signature: Signature) -> dict[str, dict[str, int]]:
    return {
        r.axis: {"max": int(r.rule.removeprefix("at most "))}
        for r in signature.restrictions
        if r.rule.startswith("at most ")
    }


def _joint_bounds(signature: Signature) -> dict[str, dict[str, int]]:
    """Least sizes of axes that several others add up to (all tokens: the past ones and the new ones).

    torch takes each of those for two at least, and refuses a sum that may be less, after a whole trace.
    """
    generator, traced = signature.generator, signature.traced
    bounds = {}
    for (tensor, axis), name in generator.joint_axes.items():
        if tensor not in signature.sample:
            continue
        size = signature.sample[tensor].shape[axis]
        other = {dim: generator.make({**traced, dim: sizes[1]}) for dim, sizes in signature.accepted.items()}
        movers = [dim for dim, arrays in other.items() if arrays[tensor].shape[axis] != size]
        if len(movers) > 1 and size == sum(traced[dim] for dim in movers):
            bounds[name] = {"min": 2 * len(movers)}
    return bounds


def _learn_smallest(message: str, dims: _Dims, signature: Signature) -> bool:
    """Whether all that torch refuses holds from some size on; that size goes into `dims`."""
    axes = [axis.strip() for found in _VIOLATED.findall(message) for axis in found.split(",")]
    smallest = {
        axis: smallest_size(message, axis, min(signature.accepted[axis])) if axis in signature.accepted else None
        for axis in axes
    }
    if not axes or None in smallest.values():
        return False
    for axis, size in smallest.items():
        dims.bounds.setdefault(axis, {})["min"] = size or 1
    return True


def _learn(message: str, dims: _Dims, signature: Signature) -> list[Restriction] | None:
    """What torch's refusal says about the axes.

    New bounds go into `dims`. Returns restrictions that change the sample (an axis to fix, to tie
    or to step), an empty list when bounds were all, and None when the message says nothing.
    """
    fixes = dict(_SUGGESTION.findall(message.partition("Suggested fixes:")[2]))
    form = _FORM.search(message)
    if form:
        fixes[form[2]] = f"{form[1]}*_{form[2]}"
    if not fixes:
        return None
    learned = []
    for name, fix in fixes.items():
        axis = name.removeprefix("_")
        bounds = {key: int(value) for key, value in _BOUNDS.findall(fix)}
        multiple = _MULTIPLE.fullmatch(fix)
        if multiple and axis not in signature.accepted and _is_made_in(signature, axis, int(multiple[1])):
            dims.multiples[axis] = int(multiple[1])
        elif fix.startswith("Dim(") and not bounds:
            continue  # any size
        elif bounds and _within(bounds, axis, dims, signature):
            dims.bounds.setdefault(name, {}).update(bounds)
        elif fix.isidentifier() and fix.removeprefix("_") in signature.accepted:
            learned.append(Restriction(axis, f"equal to {fix.removeprefix('_')}", _reason(message, axis)))
        elif axis in signature.accepted:
            # A graph for multiples or large sizes alone would not serve the size that the
            # processor gives, or only by accident: the axis is fixed at that size instead.
            learned.append(Restriction(axis, f"fixed at {signature.accepted[axis][0]}", _reason(message, axis)))
        else:
            return None
    return learned + _other_side(learned, signature)


def _is_made_in(signature: Signature, axis: str, multiple: int) -> bool:
    """Whether the axis is one of what the preprocessing makes, and comes in these multiples at every size tried."""
    generator = signature.generator
    sizes = [{**signature.traced, dim: size} for dim, tried in signature.accepted.items() for size in tried]
    values = [axis_values(signature.inputs, generator.make(one)).get(axis) for one in sizes]
    return bool(values) and all(value is not None and value % multiple == 0 for value in values)


def _other_side(learned: list[Restriction], signature: Signature) -> list[Restriction]:
    """An image that is fixed on one side is fixed on both: half of it free helps nobody, and the
    other side would fail next, after one more trace."""
    sides = {"height": "width", "width": "height"}
    fixed = {r.axis: r for r in learned if r.rule.startswith("fixed") and r.axis in sides}
    return [
        Restriction(sides[axis], f"fixed at {signature.accepted[sides[axis]][0]}", restriction.reason)
        for axis, restriction in fixed.items()
        if sides[axis] not in fixed and sides[axis] in signature.accepted
    ]


def _within(bounds: dict[str, int], axis: str, dims: _Dims, signature: Signature) -> bool:
    """Whether the size that the processor gives lies within the bounds."""
    if axis not in signature.accepted:
        return True
    size = signature.accepted[axis][0] // dims.multiples.get(axis, 1)
    return bounds.get("min", 0) <= size <= bounds.get("max", size)


def _lasting(signature: Signature) -> list[Restriction]:
    """Restrictions that still hold when the axes are inferred again."""
    return [r for r in signature.restrictions if r.rule.startswith(("fixed at", "multiple of", "equal to"))]


def _reason(message: str, axis: str) -> str:
    """torch's own explanation of what it wants of an axis, in one line."""
    lines = [line.strip(" -") for line in message.splitlines() if axis in line and "onstraints violated" not in line]
    best = [line for line in lines if "==" in line or "must be" in line or "of the form" in line] or lines
    return f"torch.export: {best[0][:200].rstrip('. ')}" if best else "torch.export"


def _with_dims(signature: Signature, dims: _Dims) -> Signature:
    """Record what torch.export made of the axes."""
    known = {(r.axis, r.rule): r for r in signature.restrictions}
    kept = [r for r in signature.restrictions if not r.rule.startswith("at most ")]
    for name, bounds in dims.bounds.items():
        axis = name.removeprefix("_")
        if axis not in signature.accepted:
            continue  # fixed since
        multiple = dims.multiples.get(axis, 1)
        if "max" in bounds:
            rule = f"at most {bounds['max'] * multiple}"
            # A limit that torch accepted keeps its reason; one that torch set is a table of the model.
            kept.append(known.get((axis, rule), Restriction(axis, rule, "size of a table in the model")))
        if bounds.get("min", 0) > 2:
            kept.append(Restriction(axis, f"at least {bounds['min'] * multiple}", "smaller inputs take another path"))
    for name, multiple in dims.multiples.items():
        if multiple > 1 and (name, f"multiple of {multiple}") not in known:
            kept.append(Restriction(name, f"multiple of {multiple}", "torch.export"))
    return replace(signature, restrictions=tuple(kept), multiples=dict(dims.multiples))


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _failure(source: TorchSource, error: Exception) -> ExportError:
    cause = _cause(error)
    return ExportError(
        f"torch.export cannot capture {source.architecture}: {type(cause).__name__}: {first_line(cause)}.",
        hint="--verbose shows what torch said.",
    )
