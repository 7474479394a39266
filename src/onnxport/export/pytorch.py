"""Capture a PyTorch model as an ONNX graph through `transformers.exporters.OnnxExporter`.

The axes of the signature are given as named dimensions, so that torch.export refuses a graph
in which one of them came out fixed instead of baking it in without a word. What it refuses with
("Suggested fixes") is applied, and recorded as a restriction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxport.artifact.manifest import Restriction
from onnxport.errors import ExportError
from onnxport.samples.base import Sampler
from onnxport.shapes import Signature, first_line, infer_signature
from onnxport.sources.pytorch import TorchSource, selected_outputs, without_cache

if TYPE_CHECKING:
    import onnx_ir

_ATTEMPTS = 8
# torch.export's own words, for example: "  sequence_length = Dim('sequence_length', max=512)",
# "  height = 224", "  height = 32*_height", "  width = height".
_SUGGESTION = re.compile(r"^\s+(?P<name>\w+) = (?P<fix>.+?)\s*$", re.MULTILINE)
_BOUNDS = re.compile(r"(min|max)=(\d+)")


@dataclass(frozen=True)
class Captured:
    """A graph and the signature that it really has."""

    model: onnx_ir.Model
    signature: Signature


@dataclass
class _Dims:
    """How each dynamic axis is declared to torch.export."""

    bounds: dict[str, dict[str, int]]
    multiples: dict[str, int]
    same: dict[str, str]


def capture(source: TorchSource, sampler: Sampler, signature: Signature, opset: int) -> Captured:
    """Export `source` with the dynamic axes of `signature`.

    Raises:
        ExportError: torch cannot capture the model; nothing was written.
    """
    dims = _Dims(_known_bounds(signature), dict(signature.multiples), {})
    deferred = False
    for _ in range(_ATTEMPTS):
        try:
            program = _export(source, signature, dims, opset, deferred)
        except Exception as error:  # noqa: BLE001 -- torch fails with any type; ours says what to do
            fixes = dict(_SUGGESTION.findall(str(error).partition("Suggested fixes:")[2]))
            pinned = _apply(fixes, dims)
            if pinned:
                signature = _with_pinned(source, sampler, signature, pinned, first_line(_cause(error)))
            elif not fixes and not deferred:
                deferred = True  # guards on values become checks at run time, which ONNX does not carry
            elif not fixes:
                raise _failure(source, error) from error
        else:
            _check_opset(program, opset)
            return Captured(program, _with_dims(signature, dims))
    raise ExportError(f"{source.architecture}: torch.export asked for ever new axis bounds. Nothing was written.")


def _export(source: TorchSource, signature: Signature, dims: _Dims, opset: int, deferred: bool) -> onnx_ir.Model:
    from transformers.exporters import OnnxConfig, OnnxExporter

    config = OnnxConfig(
        dynamic_shapes=_dynamic_shapes(signature, dims),
        opset_version=opset,
        prefer_deferred_runtime_asserts_over_guards=deferred,
    )
    with selected_outputs(source), without_cache(source.model):
        return OnnxExporter().export(source.model, source.tensors(signature.sample), config).program


def _dynamic_shapes(signature: Signature, dims: _Dims) -> dict[str, dict[int, Any]]:
    import torch

    made: dict[str, Any] = {}

    def dim(name: str) -> Any:
        name = dims.same.get(name, name)
        if name not in made:
            multiple = dims.multiples.get(name, 1)
            if multiple > 1:
                made[name] = multiple * torch.export.Dim(f"_{name}", **dims.bounds.get(f"_{name}", {}))
            else:
                made[name] = torch.export.Dim(name, **dims.bounds.get(name, {}))
        return made[name]

    return {
        spec.name: {
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


def _apply(fixes: dict[str, str], dims: _Dims) -> list[str]:
    """Take torch's suggestions into `dims`; returns the axes that it wants fixed."""
    pinned = []
    for name, fix in fixes.items():
        bounds = {key: int(value) for key, value in _BOUNDS.findall(fix)}
        derived = re.fullmatch(rf"(\d+)\*_{name}(?:\s.*)?", fix)
        if bounds:
            dims.bounds.setdefault(name, {}).update(bounds)
        elif fix.isdigit():
            pinned.append(name.removeprefix("_"))
        elif derived:
            dims.multiples[name] = int(derived[1])
            dims.bounds.pop(name, None)
        elif fix.isidentifier():
            dims.same[name] = fix
        else:
            pinned.append(name.removeprefix("_"))
    return pinned


def _with_pinned(
    source: TorchSource, sampler: Sampler, signature: Signature, pinned: list[str], reason: str
) -> Signature:
    """The signature with some knobs fixed at their base size, where the processor puts them."""
    kept = {name: sizes for name, sizes in signature.accepted.items() if name not in pinned}
    if kept == signature.accepted:
        raise ExportError(f"torch.export fixes {', '.join(pinned)}, which cannot be fixed: {reason}.")
    return infer_signature(source, sampler, fixed=dict.fromkeys(pinned, f"torch.export: {reason}"), known=signature)


def _with_dims(signature: Signature, dims: _Dims) -> Signature:
    """Record what torch.export made of the axes."""
    restrictions = [r for r in signature.restrictions if not r.rule.startswith("at most ")]
    for name, bounds in dims.bounds.items():
        multiple = dims.multiples.get(name.removeprefix("_"), 1)
        if "max" in bounds:
            rule = f"at most {bounds['max'] * multiple}"
            restrictions.append(Restriction(name.removeprefix("_"), rule, "size of a table in the model"))
        if bounds.get("min", 0) > 2:
            rule = f"at least {bounds['min'] * multiple}"
            restrictions.append(Restriction(name.removeprefix("_"), rule, "smaller inputs take another path"))
    for name, multiple in dims.multiples.items():
        if multiple > 1 and not any(r.axis == name and r.rule.startswith("multiple") for r in restrictions):
            restrictions.append(Restriction(name, f"multiple of {multiple}", "torch.export"))
    for name, other in dims.same.items():
        restrictions.append(Restriction(name, f"equal to {other}", "torch.export"))
    return replace(signature, restrictions=tuple(restrictions), multiples=dict(dims.multiples))


def _check_opset(program: onnx_ir.Model, opset: int) -> None:
    actual = program.opset_imports.get("")
    if actual != opset:
        raise ExportError(
            f"torch.onnx could not write opset {opset} for this model; it gave {actual}. Nothing was written.",
            hint=f"Use --opset {actual}.",
        )


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _failure(source: TorchSource, error: Exception) -> ExportError:
    cause = _cause(error)
    return ExportError(
        f"torch.export cannot capture {source.architecture}: {type(cause).__name__}: {first_line(cause)}. "
        "Nothing was written.",
        hint="--verbose shows what torch said.",
    )
