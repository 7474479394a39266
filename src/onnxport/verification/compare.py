"""Source against ONNX, at the traced sizes and at others, before anything is published.

`record` runs the source model, before the exporter has touched it; `compare` runs the graph in
ONNX Runtime on the same inputs. Between the two the source can be freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from onnxport.axes import evaluate
from onnxport.dummy_inputs.base import Arrays, Sizes
from onnxport.specs import CaseCheck, OutputCheck, TensorSpec, Verification
from onnxport.system.library_errors import first_line
from onnxport.tensor_names import NUM_LOGITS, NUM_LOGITS_TO_KEEP
from onnxport.verification.cases import Case
from onnxport.verification.sessions import session_for

# (absolute, relative): an output passes when max |onnx - source| <= absolute + relative * max |source|.
# float32: rounding of sums in another order stays below 2e-5 of the scale in every model measured;
# int8: dynamic quantization of weights and activations, 8 bits each.
# int8-weights, int4: against the source with rounded weights; what is left are activations of 8 bits.
TOLERANCES: dict[str, tuple[float, float]] = {
    "float32": (1e-5, 1e-4),
    "float16": (1e-3, 1e-2),
    "int8": (1e-2, 2.5e-1),
    "int8-weights": (1e-2, 2.5e-1),
    "int4": (1e-2, 2.5e-1),
}

LOAD = "load"  # the case of a graph that ONNX Runtime refuses


_PIECE = 2**20  # elements


def compare(
    path: Path,
    cases: Sequence[Case],
    *,
    decision: str | None,
    outputs: Sequence[TensorSpec],
    source: str,
    precision: str = "float32",
) -> Verification:
    """Run the graph at `path` on every case and compare each output with the source's.

    Args:
        decision: what a user sees in the outputs (`Task.decision`).
        outputs: their axes as declared; an output whose shape differs from it fails.
        source: name and version of what the cases were recorded with.
        precision: row of `TOLERANCES`.
    """
    from onnxport.runtime.shared_cache import packed_rows, real_only, run_packed

    tolerance = TOLERANCES[precision]
    try:
        session = session_for(path, cases)
    except Exception as error:  # a graph that does not load is a failed verification
        unloadable = CaseCheck(LOAD, {}, (), error=first_line(error), ok=False)
        return verification_of((unloadable,), source, tolerance)
    known = {spec.name for spec in (*session.inputs, *session.optional)}
    if NUM_LOGITS_TO_KEEP in known:
        cases = (*cases, *_last_logits(cases))

    def run(inputs: Arrays) -> Arrays:
        # An input that no output depends on may be gone from the graph.
        return session.run({name: value for name, value in inputs.items() if name in known})

    if packed_rows(session) is not None:
        # Its cache has no padding; where the mask has some, there is nothing to compare.
        cases = [replace(case, outputs=real_only(case.outputs, case.inputs["attention_mask"])) for case in cases]
        call: Callable[[Arrays], Arrays] = partial(run_packed, run)
    else:
        call = run

    checks = [check_case(call, case, decision, outputs, *tolerance) for case in cases]
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


def _last_logits(cases: Sequence[Case]) -> Iterator[Case]:
    """The first and the last case once more, for the logits of a few tokens alone, unless there are such cases."""
    whole = [] if any(case.inputs.get(NUM_LOGITS_TO_KEEP) for case in cases) else [cases[0], cases[-1]]
    for case, count in zip(whole, (1, 2), strict=False):
        kept = case.outputs["logits"][:, -count:]
        yield Case(
            f"{case.name}, last logits",
            case.sizes | {NUM_LOGITS: kept.shape[1]},
            case.inputs | {NUM_LOGITS_TO_KEEP: np.array(count)},
            case.outputs | {"logits": kept},
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
        absolute, relative: the tolerance.
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
    checks = tuple(
        _check_output(name, wanted, found[name], declared[name], case.sizes, absolute, relative)
        for name, wanted in case.outputs.items()
    )
    for name, wanted in case.outputs.items():
        if fault := _other_form(name, wanted, found[name], declared[name], case.sizes):
            return CaseCheck(case.name, case.sizes, checks, error=fault, ok=False)
    agreement = None
    if decision and all(found[name].shape == value.shape for name, value in case.outputs.items()):
        agreement = _agreement(decide(decision, case.outputs, case.inputs), decide(decision, found, case.inputs))
    ok = all(check.ok for check in checks)
    return CaseCheck(case.name, case.sizes, checks, decision if agreement is not None else None, agreement, None, ok)


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
    name: str,
    wanted: np.ndarray,
    found: np.ndarray,
    spec: TensorSpec | None,
    sizes: Sizes,
    absolute: float,
    relative: float,
) -> OutputCheck:
    if _other_form(name, wanted, found, spec, sizes) is not None:
        return OutputCheck(name, found.shape, float("inf"), float("inf"), _scale(wanted), absolute, False)
    error, scale = max_error(wanted, found), _scale(wanted)
    if wanted.dtype == np.float16:  # rounded at the end, if not before
        absolute, relative = (max(pair) for pair in zip((absolute, relative), TOLERANCES["float16"], strict=True))
    tolerance = absolute + relative * scale if wanted.dtype.kind == "f" else 0.0
    ok = bool(error <= tolerance)
    return OutputCheck(name, found.shape, error, error / scale if scale else error, scale, tolerance, ok)


def max_error(wanted: np.ndarray, found: np.ndarray) -> float:
    """max |found - wanted|; equal infinities and NaN in both count as equal, one alone as infinite."""
    pieces = zip(_pieces(wanted), _pieces(found), strict=True)
    return max((_piece_error(ours, theirs) for ours, theirs in pieces), default=0.0)


def _piece_error(wanted: np.ndarray, found: np.ndarray) -> float:
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    same = (wanted == found) | (np.isnan(wanted) & np.isnan(found))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(found - wanted))
    return float(np.nan_to_num(error, nan=np.inf, posinf=np.inf).max())


def _scale(wanted: np.ndarray) -> float:
    """max |wanted| of what is a number; masked scores, the lowest float, would make any error look small."""
    return max((_piece_scale(piece) for piece in _pieces(wanted)), default=0.0)


def _piece_scale(wanted: np.ndarray) -> float:
    finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
    finite = finite[finite < 1e30]
    return float(finite.max()) if finite.size else 0.0


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """In parts, because logits over a vocabulary are large, and float64 copies of them larger."""
    flat = array.reshape(-1)
    return (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))


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


def decide(decision: str, outputs: Arrays, inputs: Arrays) -> np.ndarray | None:
    """What a user sees: integers to compare for equality. None when the outputs do not hold it."""
    logits = outputs.get("logits", outputs.get("class_queries_logits"))
    match decision:
        case "label" | "box" if logits is not None:
            return logits.argmax(-1) if logits.shape[-1] > 1 else (logits > 0).astype(np.int64)
        case "token" if logits is not None:
            tokens = logits.argmax(-1)
            mask = inputs.get("attention_mask")
            return np.where(mask == 1, tokens, -1) if mask is not None and mask.shape == tokens.shape else tokens
        case "span" if "start_logits" in outputs:
            return np.stack([outputs["start_logits"].argmax(-1), outputs["end_logits"].argmax(-1)])
        case "class map" if logits is not None:
            return logits.argmax(1)
        case "nearest text" if "logits_per_image" in outputs:
            return outputs["logits_per_image"].argmax(-1)
    return None


def _agreement(wanted: np.ndarray | None, found: np.ndarray | None) -> float | None:
    if wanted is None or found is None or wanted.size == 0:
        return None
    return float((wanted == found).mean())
