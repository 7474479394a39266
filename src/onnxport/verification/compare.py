"""Run a graph in ONNX Runtime on recorded inputs and compare its outputs with the recorded ones.

`cases.record` runs the source model, before the exporter changes it; `compare` needs the graph alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.axes import evaluate
from onnxport.dummy_inputs.base import Arrays, Sizes
from onnxport.specs import CaseCheck, OutputCheck, TensorSpec, Verification
from onnxport.system.library_errors import first_line
from onnxport.tensor_names import NUM_LOGITS, NUM_LOGITS_TO_KEEP
from onnxport.verification.case import Case
from onnxport.verification.decisions import agreement
from onnxport.verification.rounding import FIXED, FLOAT64, Rounding
from onnxport.verification.sessions import session_for
from onnxport.verification.structure import NAME, Structure, differences, without_rounding
from onnxport.verification.tolerance import LARGEST, TOLERANCES, fixed_tolerance, measured_tolerance, pieces, scale_of

_ROUNDED = 0.1  # tolerances of graphs with rounded numbers are wider
_FEW = 8  # numbers

LOAD = "load"  # the case of a graph that ONNX Runtime refuses


def compare(
    path: Path,
    cases: Sequence[Case],
    *,
    decision: str | None,
    outputs: Sequence[TensorSpec],
    source: str,
    precision: str = "float32",
    structure: Structure | None = None,
) -> Verification:
    """Run the graph at `path` on every case and compare each output with the source's.

    A float32 graph is judged by the measured rounding of the source where a case has it (`verification.tolerance`).

    Args:
        decision: what a user sees in the outputs (`Task.decision`).
        outputs: their axes as declared; an output whose shape differs from it fails.
        source: name and version of what the cases were recorded with.
        precision: row of `TOLERANCES`.
        structure: how the source's outputs move when its inputs are changed.
    """
    from onnxport.runtime.cache.packed_rows import positions_follow_mask, read_packed_rows, run_packed, zero_padding

    tolerance = TOLERANCES[precision]
    try:
        session = session_for(path, cases)
    except Exception as error:  # a graph that does not load is a failed verification
        unloadable = CaseCheck(LOAD, {}, (), error=first_line(error), ok=False)
        return verification_of((unloadable,), source, tolerance)
    known = {spec.name for spec in (*session.inputs, *session.optional)}
    if NUM_LOGITS_TO_KEEP in known:
        cases = (*cases, *last_logits(cases))

    def run(inputs: Arrays) -> Arrays:
        # An input that no output depends on may be gone from the graph.
        return session.run({name: value for name, value in inputs.items() if name in known})

    if read_packed_rows(session) is not None:
        # Its cache has no padding; where the mask has some, there is nothing to compare. It counts positions itself.
        cases = [_of_real_tokens(case, zero_padding) for case in cases if positions_follow_mask(case.inputs)]
        call: Callable[[Arrays], Arrays] = partial(run_packed, run)
    else:
        call = run

    if precision != "float32":
        cases = [replace(case, rounding=None) for case in cases]
        structure = structure and without_rounding(structure)
    checks = [check_case(call, case, decision, outputs, *tolerance) for case in cases]
    if structure is not None and call is run:
        checks += check_structure(run, structure, decision, outputs, precision)
    return verification_of(checks, source, tolerance, mapped=session.maps_weights)


def verification_of(
    checks: Sequence[CaseCheck], source: str, tolerance: tuple[float, float], *, mapped: bool = False
) -> Verification:
    """The record of these cases, which ONNX Runtime ran.

    Args:
        source: what they were compared with.
        tolerance: (absolute, relative to the scale).
        mapped: the weights stayed in their file.
    """
    import onnxruntime

    runtime = f"onnxruntime {onnxruntime.__version__} (CPUExecutionProvider{', weights mapped' if mapped else ''})"
    return Verification(all(check.ok for check in checks), source, runtime, *tolerance, tuple(checks))


def _of_real_tokens(case: Case, real_only: Callable[[Arrays, np.ndarray], Arrays]) -> Case:
    def real(arrays: Arrays) -> Arrays:
        return real_only(arrays, case.inputs["attention_mask"])

    return replace(case, outputs=real(case.outputs), rounding=case.rounding and case.rounding.mapped(real))


def last_logits(cases: Sequence[Case]) -> Iterator[Case]:
    """The first and the last case once more, for the logits of a few tokens alone, unless there are such cases."""
    whole = [] if any(case.inputs.get(NUM_LOGITS_TO_KEEP) for case in cases) else [cases[0], cases[-1]]
    for case, count in zip(whole, (1, 2), strict=False):

        def last(arrays: Arrays, count: int = count) -> Arrays:
            return arrays | {"logits": arrays["logits"][:, -count:]}

        outputs = last(case.outputs)
        yield Case(
            f"{case.name}, last logits",
            case.sizes | {NUM_LOGITS: outputs["logits"].shape[1]},
            case.inputs | {NUM_LOGITS_TO_KEEP: np.array(count)},
            outputs,
            case.rounding and case.rounding.mapped(last),
        )


def check_case(
    run: Callable[[Arrays], Arrays],
    case: Case,
    decision: str | None,
    specs: Sequence[TensorSpec] | None,
    absolute: float,
    relative: float,
) -> CaseCheck:
    """One case: every output of `run` against what the case has.

    Args:
        specs: outputs with their axes as declared; None where no shapes are declared for such a call.
        absolute, relative: the tolerance, where the case has no measured rounding.
    """
    try:
        found = run(case.inputs)
    except Exception as error:  # whatever the run time says is the finding
        return CaseCheck(case.name, case.sizes, (), error=first_line(error), ok=False)
    missing = [name for name in case.outputs if name not in found]
    if missing:
        return CaseCheck(case.name, case.sizes, (), error=f"missing outputs: {', '.join(missing)}", ok=False)
    declared: dict[str, TensorSpec | None] = dict.fromkeys(case.outputs)
    if specs is not None:
        declared = {spec.name: spec for spec in specs}
    checks: list[OutputCheck] = []
    faults: list[str] = []
    for name, wanted in case.outputs.items():
        if fault := _other_form(name, wanted, found[name], declared[name], case.sizes):
            faults.append(fault)
            scale = scale_of(wanted)
            checks.append(OutputCheck(name, found[name].shape, float("inf"), float("inf"), scale, absolute, False))
        else:
            checks.append(_check_output(name, wanted, found[name], case.rounding, (absolute, relative)))
    if faults:
        return CaseCheck(case.name, case.sizes, tuple(checks), error=faults[0], ok=False)
    ok = all(check.ok for check in checks)
    allowed = {check.name: check.tolerance for check in checks}
    decided = agreement(decision, case.outputs, found, case.inputs, allowed) if decision else None
    if decided is None:
        return CaseCheck(case.name, case.sizes, tuple(checks), None, None, None, ok)
    fault = None
    if decided.wrong and ok:
        fault = (
            f"{decided.wrong} of the decisions ({decision}) differ, though the source's leads by up to "
            f"{decided.widest:.3g}"
        )
    return CaseCheck(
        case.name, case.sizes, tuple(checks), decision, decided.share, fault, ok and not decided.wrong, decided.ties
    )  # fmt: skip


def check_structure(
    run: Callable[[Arrays], Arrays],
    structure: Structure,
    decision: str | None,
    specs: Sequence[TensorSpec],
    precision: str,
) -> list[CaseCheck]:
    """Whether what moves the source's outputs moves the graph's, and nothing else does.

    Values are compared too. Integer products have one scale for a whole batch: in a graph with them each row moves the
    others a little, and values alone are compared.
    """
    try:
        base = run(structure.base.inputs)
        found = [run(change.case.inputs) for change in structure.changes]
    except Exception as error:  # whatever the run time says is the finding
        return [CaseCheck(NAME, structure.base.sizes, (), error=first_line(error), ok=False)]
    checks = []
    for change, outputs in zip(structure.changes, found, strict=True):
        check = CaseCheck(change.case.name, change.case.sizes, ())
        if change.judged:
            check = check_case(lambda _, known=outputs: known, change.case, decision, specs, *TOLERANCES[precision])  # type: ignore[misc]
        faults = differences(structure, change, base, outputs, specs) if precision == "float32" else []
        if faults and check.ok:
            check = replace(check, error=faults[0], ok=False)
        if change.judged or not check.ok:
            checks.append(check)
    if not checks:
        checks = [CaseCheck(NAME, structure.base.sizes, ())]
    return checks


def _other_form(
    name: str, wanted: np.ndarray, found: np.ndarray, spec: TensorSpec | None, sizes: Sizes
) -> str | None:  # fmt: skip
    """In words, where an output is of another type or shape than the source's, or than it was found to be."""
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        return f"{name} is {found.dtype} {list(found.shape)}, the source's is {wanted.dtype} {list(wanted.shape)}"
    if spec is not None and not _shape_as_declared(found.shape, spec, sizes):
        return f"{name} is {list(found.shape)}, and ({', '.join(map(str, spec.axes))}) was found at other sizes"
    return None


def _check_output(
    name: str, wanted: np.ndarray, found: np.ndarray, rounding: Rounding | None, fixed: tuple[float, float]
) -> OutputCheck:
    error, scale = max_error(wanted, found), scale_of(wanted)
    relative = error / scale if scale else error
    noise = rounding.noise.get(name) if rounding is not None else None
    if rounding is not None and noise is not None:
        moved, tolerance = rounding.moved[name], measured_tolerance(noise, scale)
        source = float(np.abs(moved).max(initial=0))
        graph = max_error(wanted, found, moved) if rounding.method == FLOAT64 else None
        ok = bool((error if graph is None else graph) <= tolerance)
        return OutputCheck(
            name, found.shape, error, relative, scale, tolerance, ok, rounding.method, source, graph
        )  # fmt: skip
    absolute, share = fixed
    tolerance = absolute + share * scale if wanted.dtype.kind == "f" else 0.0
    if wanted.dtype == np.float16:  # rounded at the end, if not before
        tolerance = max(tolerance, fixed_tolerance("float16", scale))
    ok, cosine = bool(error <= tolerance), None
    if share >= _ROUNDED:
        cosine = smallest_cosine(wanted, found)
        ok = ok and (cosine is None or cosine >= 1 - share)
    return OutputCheck(name, found.shape, error, relative, scale, tolerance, ok, FIXED, cosine=cosine)


def smallest_cosine(wanted: np.ndarray, found: np.ndarray) -> float | None:
    """Of rows of two arrays; None for rows of few numbers, whose direction is a matter of signs.

    >>> smallest_cosine(np.eye(2, 16, dtype=np.float32), np.ones((2, 16), np.float32))
    0.25
    """
    if wanted.dtype.kind != "f" or wanted.ndim < 2 or wanted.size < _FEW * len(wanted):
        return None
    one, other = (value.reshape(len(value), -1).astype(np.float64) for value in (wanted, found))
    real = np.isfinite(one) & np.isfinite(other) & (np.abs(one) < LARGEST)
    one, other = np.where(real, one, 0), np.where(real, other, 0)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.divide((one * other).sum(1), lengths, out=np.ones(len(one)), where=lengths > 0)
    return float(cosines.min(initial=1.0))


def max_error(wanted: np.ndarray, found: np.ndarray, moved: np.ndarray | None = None) -> float:
    """Max |found - wanted|; equal infinities and NaN in both count as equal, one alone as infinite.

    Args:
        moved: of the shape of `wanted`; found is compared with wanted + moved where both are numbers.
    """
    far: Iterator[Any] = repeat(np.float32(0)) if moved is None else pieces(moved)
    return max((_piece_error(*part) for part in zip(pieces(wanted), pieces(found), far, strict=False)), default=0.0)


def _piece_error(wanted: np.ndarray, found: np.ndarray, moved: np.ndarray | np.float32) -> float:
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    same = (np.isnan(wanted) & np.isnan(found)) | (np.isinf(wanted) & (wanted == found))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(found - wanted - moved))
    return float(np.nan_to_num(error, nan=np.inf, posinf=np.inf).max())


def _shape_as_declared(shape: tuple[int, ...], spec: TensorSpec, sizes: Sizes) -> bool:
    if len(shape) != len(spec.axes):
        return False
    for size, axis in zip(shape, spec.axes, strict=True):
        try:
            if evaluate(axis, sizes) != size:
                return False
        except KeyError:
            continue  # an axis of its own, without an expression
    return True
