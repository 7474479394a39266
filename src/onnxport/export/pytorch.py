"""Export a PyTorch model as an ONNX graph through `transformers.exporters.OnnxExporter`.

The dynamic axes of the signature are declared to torch.export, which raises an error if one of them would become
static. Its suggested fixes are applied and recorded as restrictions.

Weights do not pass through the exporter. It sees placeholders, and each weight of the captured graph then refers to its
place in the checkpoint.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from onnxport.errors import ExportError
from onnxport.export.capture_failure import capture_failure
from onnxport.export.captured import Captured
from onnxport.export.decompositions import decompose_where_needed
from onnxport.export.fixes import trace_fixes
from onnxport.export.guards import accepted_guards, valid_sizes
from onnxport.export.loaded_patches import loaded_patches
from onnxport.export.operator_table import operator_table
from onnxport.export.opset import LOWEST_CAPTURED
from onnxport.export.signature import IMAGE_SIDES, Signature, axis_values, infer_signature
from onnxport.export.type_promotion import promote_recorded_types
from onnxport.sources.pytorch.model_state import state_kept
from onnxport.sources.pytorch.source import TorchSource, selected_outputs, without_cache
from onnxport.specs import LASTING_LIMITS, Limit, Restriction

if TYPE_CHECKING:
    import onnx_ir

_ATTEMPTS = 8
# Messages of torch.export, for example: "  sequence_length = Dim('sequence_length', max=512)",
# "  height = 224", "  height = 32*_height", "  width = height".
_SUGGESTION = re.compile(r"^\s+(?P<name>\w+) = (?P<fix>.+?)\s*$", re.MULTILINE)
# "Expected shape[2] = 41 of input Tensor to be of the form 16*_height, where _height is an integer"
_FORM = re.compile(r"to be of the form (\d+)\*_(\w+)")
_MULTIPLE = re.compile(r"(\d+)\*_\w+")  # of an axis that the preprocessing makes
_VIOLATED = re.compile(r"onstraints violated \((.+?)\)")
_BOUNDS = re.compile(r"(min|max)=(\d+)")


@dataclass
class _Dims:
    """How dynamic axes are declared to torch.export.

    Attributes:
        bounds: axis -> {"min": ..., "max": ...}.
        multiples: axis -> number that its size is a multiple of.
    """

    bounds: dict[str, dict[str, int]]
    multiples: dict[str, int]


def capture_pytorch(source: TorchSource, signature: Signature, opset: int) -> Captured:
    """Export `source` with the dynamic axes of `signature`.

    The graph is not simplified, and has opset 18 or newer (`export.opset.require_opset` converts to older ones).

    Args:
        source: the model.
        signature: its inputs, outputs and axes.
        opset: the opset that is wanted.

    Raises:
        ExportError: torch cannot capture the model.
    """
    generator = signature.generator
    dims = _Dims(_known_bounds(signature) | _joint_bounds(signature), dict(signature.multiples))
    deferred = False
    for _ in range(_ATTEMPTS):
        try:
            with accepted_guards(partial(_learn_sizes, dims=dims, signature=signature)):
                program = _export(source, signature, dims, opset, deferred)
        except Exception as error:  # torch raises any type
            if not deferred and _learn_sizes(str(error), dims, signature):
                deferred = True
                continue
            learned = _learn(str(error), dims, signature)
            if learned and (larger := _at_larger_sizes(signature, learned)) is not None:
                signature = larger
            elif learned:
                signature = infer_signature(source, generator, (*_permanent(signature), *learned))
                dims.multiples.update(signature.multiples)
            elif learned is None and not deferred:
                deferred = True  # guards become run time checks, which ONNX does not have
            elif learned is None:
                raise capture_failure(source, error) from error
        else:
            return Captured(program, _with_dims(signature, dims))
    raise ExportError(
        f"torch.export cannot capture {source.architecture}: it asked for new axis bounds {_ATTEMPTS} times.",
        hint="Add --verbose to see the messages of torch.",
    )


def _export(source: TorchSource, signature: Signature, dims: _Dims, opset: int, deferred: bool) -> onnx_ir.Model:
    from transformers.exporters import OnnxConfig

    from onnxport.weights.attach import attach
    from onnxport.weights.placeholders import new_fake_mode, placeholders

    config = OnnxConfig(
        dynamic_shapes=_dynamic_shapes(signature, dims),
        opset_version=max(opset, LOWEST_CAPTURED),
        prefer_deferred_runtime_asserts_over_guards=deferred,
        optimize=False,  # placeholders of one shape are equal: folding or merging them would be wrong
    )
    with (
        state_kept(source.model), placeholders(source.model, new_fake_mode()), selected_outputs(source),
        without_cache(source.model), trace_fixes(source.model), _grouped_query_attention(), _without_stack_traces(),
        operator_table(), loaded_patches(), promote_recorded_types(),
    ):  # fmt: skip
        sample = {_python_name(name): tensor for name, tensor in source.tensors(signature.sample).items()}
        program = _to_onnx(source, sample, config)
    for value, spec in zip(program.graph.inputs, signature.inputs, strict=True):
        value.name = spec.name
    attach(program, source.model)
    return program


def _to_onnx(source: TorchSource, sample: dict[str, Any], config: Any) -> onnx_ir.Model:
    """Export the program to ONNX, without the second trace if possible."""
    from transformers.exporters import OnnxExporter

    with decompose_where_needed() as left_alone:
        try:
            return OnnxExporter().export(source.model, sample, config).program
        except Exception:  # torch raises any type
            if not left_alone:
                raise
    return OnnxExporter().export(source.model, sample, config).program


@contextmanager
def _grouped_query_attention() -> Iterator[None]:
    """Keep the smaller number of key and value heads; by default transformers repeats them if there is a mask."""
    switch = "TRANSFORMERS_SDPA_FORCE_GQA"  # a variable of transformers, read at every call
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
    """Record no source lines while tracing: `graph.strip` removes them, and they take a seventh of the time."""
    import torch.fx.config

    before = torch.fx.config.do_not_emit_stack_traces
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


def _python_name(name: str) -> str:
    """Return a valid name of a Python parameter; `past_key_values.0.key` is not one."""
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
    return {r.axis: {"max": int(r.operand)} for r in signature.restrictions if r.limit is Limit.AT_MOST}


def _joint_bounds(signature: Signature) -> dict[str, dict[str, int]]:
    """Return minimum sizes of axes that are a sum (past and new tokens) or a product (images and texts) of other axes.

    torch assumes that each of these is at least two, and raises an error about a smaller size after a complete trace.
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
        elif len(movers) > 1 and size == math.prod(traced[dim] for dim in movers):
            bounds[name] = {"min": 2 ** len(movers)}
    return bounds


def _learn_sizes(message: str, dims: _Dims, signature: Signature) -> bool:
    """Return whether all violated constraints hold between two sizes, which are stored in `dims`."""
    axes = [axis.strip() for found in _VIOLATED.findall(message) for axis in found.split(",")]
    # An axis that preprocessing makes (frames of a sound) has no sizes of its own, but one in the sample. So has one
    # that is traced at a larger size because its small ones are special cases.
    known = axis_values(signature.inputs, signature.sample)
    known |= {a: min(s) for a, s in signature.accepted.items() if a in IMAGE_SIDES or signature.traced[a] == s[0]}
    valid = {}
    for axis in axes:
        sizes = valid_sizes(message, axis, known[axis]) if axis in known else None
        if sizes is None:
            return False
        valid[axis] = sizes
    for axis, (smallest, largest) in valid.items():
        bounds = dims.bounds.setdefault(axis, {})
        bounds["min"] = smallest
        if largest is not None:
            bounds["max"] = min(largest, bounds.get("max", largest))
    return bool(valid)


def _learn(message: str, dims: _Dims, signature: Signature) -> list[Restriction] | None:
    """Read constraints from an error message of torch.export.

    New bounds are stored in `dims`.

    Returns:
        Restrictions that change the sample (a static, tied or multiple axis); an empty list if only bounds were found;
            None
        if the message has no known constraint.
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
        if multiple and axis not in signature.accepted and _is_preprocessed_multiple(signature, axis, int(multiple[1])):
            dims.multiples[axis] = int(multiple[1])
        elif fix.startswith("Dim(") and not bounds:
            continue  # any size
        elif bounds and _within(bounds, axis, dims, signature):
            dims.bounds.setdefault(name, {}).update(bounds)
        elif fix.isidentifier() and fix.removeprefix("_") in signature.accepted:
            learned.append(Restriction(axis, Limit.EQUAL, fix.removeprefix("_"), _reason(message, axis)))
        elif axis in signature.accepted:
            # A graph for multiples or large sizes alone would not serve the size that the
            # processor gives, or only by accident: the axis is fixed at that size instead.
            learned.append(Restriction(axis, Limit.FIXED, signature.accepted[axis][0], _reason(message, axis)))
        else:
            return None
    return learned + _both_sides(learned, signature)


def _at_larger_sizes(signature: Signature, learned: Sequence[Restriction]) -> Signature | None:
    """The signature with a larger sample along the axes that would become static; None where it is the largest.

    A small sample may be a special case of the code: of 11 characters canine keeps a single position after it has
    divided by 4 and left out the first, and torch.export takes a size of one for a constant.
    """
    sizes = {
        r.axis: max(signature.accepted[r.axis]) for r in learned if r.limit is Limit.FIXED and r.axis not in IMAGE_SIDES
    }
    traced = {**signature.traced, **sizes}
    if traced == signature.traced:
        return None
    return replace(signature, traced=traced, sample=signature.generator.make(traced))


def _is_preprocessed_multiple(signature: Signature, axis: str, multiple: int) -> bool:
    """Return whether the preprocessing makes this axis, and always in such multiples."""
    generator = signature.generator
    sizes = [{**signature.traced, dim: size} for dim, tried in signature.accepted.items() for size in tried]
    values = [axis_values(signature.inputs, generator.make(one)).get(axis) for one in sizes]
    return bool(values) and all(value is not None and value % multiple == 0 for value in values)


def _both_sides(learned: list[Restriction], signature: Signature) -> list[Restriction]:
    """Make the other side of an image static too, if one side is static.

    An image with one dynamic side is of no use, and the other side would fail next, after one more trace.
    """
    sides = {"height": "width", "width": "height"}
    fixed = {r.axis: r for r in learned if r.limit is Limit.FIXED and r.axis in sides}
    return [
        Restriction(sides[axis], Limit.FIXED, signature.accepted[sides[axis]][0], restriction.reason)
        for axis, restriction in fixed.items()
        if sides[axis] not in fixed and sides[axis] in signature.accepted
    ]


def _within(bounds: dict[str, int], axis: str, dims: _Dims, signature: Signature) -> bool:
    """Return whether the processor's size is within the bounds."""
    if axis not in signature.accepted:
        return True
    size = signature.accepted[axis][0] // dims.multiples.get(axis, 1)
    return bounds.get("min", 0) <= size <= bounds.get("max", size)


def _permanent(signature: Signature) -> list[Restriction]:
    """Restrictions that still hold when the axes are inferred again."""
    return [r for r in signature.restrictions if r.limit in LASTING_LIMITS]


def _reason(message: str, axis: str) -> str:
    """Return torch's explanation of a constraint on an axis, in one line."""
    lines = [line.strip(" -") for line in message.splitlines() if axis in line and "onstraints violated" not in line]
    if any("specialized it to be a constant" in line for line in lines):
        return "the code of the model makes it a constant when torch.export traces it"
    best = [line for line in lines if "==" in line or "must be" in line or "of the form" in line] or lines
    return f"torch.export: {best[0][:200].rstrip('. ')}" if best else "torch.export"


def _with_dims(signature: Signature, dims: _Dims) -> Signature:
    """Record what torch.export made of the axes."""
    known = {(r.axis, r.limit, r.operand): r for r in signature.restrictions}
    kept = [r for r in signature.restrictions if r.limit is not Limit.AT_MOST]
    for name, bounds in dims.bounds.items():
        axis = name.removeprefix("_")
        if axis not in signature.accepted:
            continue  # has become static
        multiple = dims.multiples.get(axis, 1)
        if "max" in bounds:
            most = axis, Limit.AT_MOST, bounds["max"] * multiple
            # A limit that torch accepted keeps its reason; one that torch set is a table of the model.
            kept.append(known.get(most, Restriction(*most, "size of a table in the model")))
        if bounds.get("min", 0) > 2:
            least = bounds["min"] * multiple
            kept.append(
                Restriction(axis, Limit.AT_LEAST, least, "the code of the model takes another path at smaller sizes")
            )
    for name, multiple in dims.multiples.items():
        if multiple > 1 and (name, Limit.MULTIPLE, multiple) not in known:
            kept.append(Restriction(name, Limit.MULTIPLE, multiple, "torch.export"))
    return replace(signature, restrictions=tuple(kept), multiples=dict(dims.multiples))
