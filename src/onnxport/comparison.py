"""Source against ONNX, at the traced sizes and at others, before anything is published.

`record` runs the source model, before the exporter has touched it; `compare` runs the graph in
ONNX Runtime on the same inputs. Between the two the source can be freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.artifact.manifest import CaseCheck, OutputCheck, TensorSpec, Verification
from onnxport.axes import evaluate
from onnxport.errors import CheckpointError, ExportError
from onnxport.graph.last_logits import KEEP, KEPT
from onnxport.samples.base import Arrays, Sampler, Sizes
from onnxport.shapes import Signature, first_line
from onnxport.sources.base import Source
from onnxport.threads import worth_threads

if TYPE_CHECKING:
    from onnxport.runtime.session import OnnxSession

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

_LEAST_CASES = 4  # the traced sizes and three others
LOAD = "load"  # the case of a graph that ONNX Runtime refuses


@dataclass(frozen=True)
class Case:
    """One set of inputs and what the source made of them."""

    name: str
    sizes: Sizes  # input axis -> value
    inputs: Arrays
    outputs: Arrays


def record(source: Source, signature: Signature) -> list[Case]:
    """Run the source at the traced sizes and at others that were not traced.

    Raises:
        ExportError: fewer than three sizes beside the traced ones could be run, or the source's
            own outputs are not finite anywhere.
    """
    sampler = signature.sampler
    cases: list[Case] = []
    refusal: Exception | None = None
    with source.weights_kept():
        for number, (name, sizes, padded, needed) in enumerate(_plan(sampler, signature)):
            try:
                inputs = sampler.make(sizes, seed=number, padded=padded)
                outputs = source.run(inputs)
            except CheckpointError:  # a weight file that cannot be read is no refusal
                raise
            except Exception as error:  # models refuse sizes with any exception
                refusal = error
                if needed:
                    raise ExportError(
                        f"{source.architecture} does not run at {name}: {first_line(error)}. Nothing was written."
                    ) from error
                continue
            cases.append(Case(name, signature.sizes_of(inputs), inputs, outputs))
    if len(cases) < _LEAST_CASES:
        raise ExportError(
            f"{source.architecture} ran at {len(cases)} of the sizes planned for verification, "
            f"{_LEAST_CASES} are needed: {first_line(refusal)}. Nothing was written."
        )
    if not any(np.isfinite(value).any() for case in cases for value in case.outputs.values()):
        raise ExportError(f"{source.architecture} gives no finite number itself. Nothing was written.")
    return cases


def _plan(sampler: Sampler, signature: Signature) -> Iterator[tuple[str, Sizes, bool, bool]]:
    """(name, knob sizes, padded, needed) of every case; none but the first was traced.

    Raises:
        ExportError: a size without which the graph is of no use is not free.
    """
    base = {knob.name: knob.base for knob in sampler.knobs}
    rows = [name for name in base if name.endswith("batch_size") and name in signature.accepted]
    free = [name for name in signature.accepted if name not in rows]
    unseen = {name: _unseen(name, sampler, signature) for name in free}
    yield "traced", signature.traced, False, False
    yield "batch of one", base | dict.fromkeys(rows, 1), False, False
    if unseen:
        yield "larger", base | {name: sizes[1] for name, sizes in unseen.items()}, False, False
        smaller = {name: sizes[0] for name, sizes in unseen.items()}
        yield "larger batch, smaller", base | dict.fromkeys(rows, 5) | smaller, False, False
        for name in unseen if len(unseen) > 1 else ():
            yield f"other {name.replace('_', ' ')}", base | {name: unseen[name][1]}, False, False
    else:
        yield "larger batch", base | dict.fromkeys(rows, 5), False, False
        yield "other content", base, False, False
        yield "other content again", base | dict.fromkeys(rows, 3), False, False
    for label, sizes in _edges(sampler, signature).items():
        yield label, base | sizes, False, True
        if sampler.can_pad:
            yield f"padded rows, {label}", base | dict.fromkeys(rows, 3) | sizes, True, True
    if sampler.can_pad:
        yield "padded rows", base | dict.fromkeys(rows, 3) | {n: s[1] for n, s in unseen.items()}, True, False


def _edges(sampler: Sampler, signature: Signature) -> dict[str, Sizes]:
    """Sizes without which the graph is of no use, with a name.

    Raises:
        ExportError: the axis came out fixed.
    """
    fixed = {r.axis: r for r in signature.restrictions if r.rule.startswith("fixed")}
    for knob in sampler.knobs:
        if knob.edges and knob.name in fixed:
            raise ExportError(
                f"{knob.name} is {fixed[knob.name].rule} ({fixed[knob.name].reason}), but this task needs any, "
                f"{', '.join(map(str, knob.edges))} too. Nothing was written."
            )
    return {f"{knob.name.replace('_', ' ')} {size}": {knob.name: size} for knob in sampler.knobs for size in knob.edges}


def _unseen(name: str, sampler: Sampler, signature: Signature) -> tuple[int, int]:
    """A smaller and a larger size of a knob that were not probed, within its limits."""
    knob = next(knob for knob in sampler.knobs if knob.name == name)
    step = signature.multiples.get(name, 1)
    accepted = signature.accepted[name]
    bounds = [r.rule for r in signature.restrictions if r.axis == name]
    most = min([int(rule.split()[-1]) for rule in bounds if rule.startswith("at most")] + [knob.maximum or 10**9])
    least = max([int(rule.split()[-1]) for rule in bounds if rule.startswith("at least")] + [2])
    if name == "num_choices":
        return 2, 5
    small, large = (5, 61) if name == "sequence_length" else (accepted[0] * 7 // 8, accepted[0] * 11 // 8 + 1)
    if small < 3 or small >= accepted[0]:
        small = accepted[0] + 1
    small, large = max(small, least), min(large, most)
    return max(small // step, 1) * step, max(large // step, 1) * step


_PIECE = 2**20  # elements
# A session copies the weights once or twice; up to this size nobody notices.
MAPPED_FROM_BYTES = 2**28


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
    import onnxruntime

    from onnxport.runtime.shared_cache import packed_rows, real_only, run_packed

    absolute, relative = TOLERANCES[precision]
    mapped = _is_large(path)
    runtime = f"onnxruntime {onnxruntime.__version__} (CPUExecutionProvider{', weights mapped' if mapped else ''})"
    try:
        session = session_for(path, cases)
    except Exception as error:  # a graph that does not load is a failed verification
        unloadable = CaseCheck(LOAD, {}, (), error=first_line(error), ok=False)
        return Verification(False, source, runtime, absolute, relative, (unloadable,))
    known = {spec.name for spec in (*session.inputs, *session.optional)}
    if KEEP in known:
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

    checks = tuple(check_case(call, case, decision, outputs, absolute, relative) for case in cases)
    return Verification(all(check.ok for check in checks), source, runtime, absolute, relative, checks)


def session_for(path: Path, cases: Sequence[Case] = ()) -> OnnxSession:
    """A session on a graph file; the weights of a large model stay in their file.

    A packed copy could need more memory than there is.

    Args:
        cases: what it will run, if that is known: on one thread where more would not help.

    Raises:
        FolderError: ONNX Runtime refuses the graph.
    """
    from onnxport.runtime.session import OnnxSession

    size = graph_bytes(path)
    # Weights of eight bits or four are more parameters than this says, and the quicker read.
    work = size / 4 * max((_elements(case.inputs) for case in cases), default=0)
    threads = None if not cases or worth_threads(size, work) else 1
    return OnnxSession(path, threads=threads, map_weights=size >= MAPPED_FROM_BYTES)


def _elements(inputs: Arrays) -> int:
    """Of the largest input that passes through the weights: a past does not."""
    return max((value.size for name, value in inputs.items() if not name.startswith("past_")), default=0)


def graph_bytes(path: Path) -> int:
    """Size of a graph file with its data."""
    from onnxport.artifact.data_files import data_files

    return sum(file.stat().st_size for file in (path, *data_files(path)) if file.exists())


def _is_large(path: Path) -> bool:
    return graph_bytes(path) >= MAPPED_FROM_BYTES


def _last_logits(cases: Sequence[Case]) -> Iterator[Case]:
    """The first and the last case once more, for the logits of a few tokens alone, unless there are such cases."""
    whole = [] if any(case.inputs.get(KEEP) for case in cases) else [cases[0], cases[-1]]
    for case, count in zip(whole, (1, 2), strict=False):
        kept = case.outputs["logits"][:, -count:]
        yield Case(
            f"{case.name}, last logits", case.sizes | {KEPT: kept.shape[1]}, case.inputs | {KEEP: np.array(count)},
            case.outputs | {"logits": kept},
        )  # fmt: skip


def check_case(
    run: Callable[[Arrays], Arrays],
    case: Case,
    decision: str | None,
    specs: Sequence[TensorSpec],
    absolute: float,
    relative: float,
) -> CaseCheck:
    """One case: every output of `run` against what the case has, at the shapes that `specs` declare.

    Args:
        absolute, relative: the tolerance.
    """
    try:
        found = run(case.inputs)
    except Exception as error:  # whatever the run time says is the finding
        return CaseCheck(case.name, case.sizes, (), error=first_line(error), ok=False)
    missing = [name for name in case.outputs if name not in found]
    if missing:
        return CaseCheck(case.name, case.sizes, (), error=f"missing outputs: {', '.join(missing)}", ok=False)
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


def _other_form(name: str, wanted: np.ndarray, found: np.ndarray, spec: TensorSpec, sizes: Sizes) -> str | None:
    """In words, where an output is of another type or shape than the source's, or than it was found to be."""
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        return f"{name} is {found.dtype} {list(found.shape)}, the source's is {wanted.dtype} {list(wanted.shape)}"
    if not _shape_as_declared(found.shape, spec, sizes):
        return f"{name} is {list(found.shape)}, and ({', '.join(map(str, spec.axes))}) was found at other sizes"
    return None


def _check_output(
    name: str, wanted: np.ndarray, found: np.ndarray, spec: TensorSpec, sizes: Sizes, absolute: float, relative: float
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
