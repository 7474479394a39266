"""`optimize` with a budget: make candidates, measure their speed and their loss, and publish the fastest that fits."""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport.api.bench import GraphBenchmark, bench
from onnxport.api.tuning_folder import files_of, tuning_folder
from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import Component
from onnxport.artifact.tuning import Candidate, Loss, Tuning
from onnxport.bench.cells import usual_lengths
from onnxport.errors import ExportError, FolderError, MemoryLimitError, UsageError, VerificationError, did_you_mean
from onnxport.graph.quantization.quantize import find_precision
from onnxport.progress import Reporter, Silent
from onnxport.publishing.leftovers import scratch_beside
from onnxport.system.library_errors import first_line
from onnxport.variants.components import converted_components
from onnxport.variants.fusion_reasons import FusionKind, explain_fusions
from onnxport.variants.loss import measure_loss
from onnxport.variants.new_folder import new_folder, with_components
from onnxport.variants.samples import read_texts, require_texts, sample_inputs

MAX_LOSS = 0.01
# Precisions of each target, and whether onnxport can measure speed there. float16 is slower than float32 on CPUs.
_PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("float32", "int8", "int8-static", "int8-weights", "int4"),
    "cuda": ("float16", "q4f16"),
    "webgpu": ("float16", "q4f16"),
    "portable": ("int8", "float16"),
}
TARGETS = tuple(_PRECISIONS)
_MEASURED = ("cpu", "portable")
_TIE = 1.03  # times that are closer than that are equal
_SECONDS = 0.6  # of each graph at each size
_BATCHES = (1, 8)
_LENGTHS = 2  # of the usual ones

Maker = Callable[[Path, str], Path]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        target: a key of `TARGETS`.
        precision: "auto", or one precision.
        max_loss: share of decisions, or 1 - cosine similarity, that may be lost.
        data: a file with a text in each line; None for the texts of the package.
    """

    target: str = "cpu"
    precision: str = "auto"
    max_loss: float = MAX_LOSS
    data: Path | None = None


def parse_loss(text: str) -> float:
    """The budget that a user wrote.

    >>> parse_loss("1%"), parse_loss("0.005")
    (0.01, 0.005)

    Raises:
        UsageError: it is no share between 0 and 1.
    """
    try:
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UsageError(f"--max-loss {text} is no share.", hint="Give a share such as 1% or 0.01.")
    return value


def tune(folder: Folder, request: Request, make: Maker, reporter: Reporter | None = None) -> Path:
    """Publish the fastest graphs whose loss is within the budget, and record what was measured.

    A call that was stopped leaves the candidates that were made until then beside the folder; the next one takes them.

    Args:
        folder: a folder that onnxport wrote.
        request: target, precision and budget.
        make: adds the graphs of a precision to a folder.
        reporter: told what is being done.

    Returns:
        The file of the chosen graph; of several the last.

    Raises:
        UsageError: an unknown target or precision, or texts that cannot be read.
        FolderError: the folder has no float32 graph.
    """
    precisions, texts = check_request(request)
    require_texts(folder, texts)
    bases = converted_components(folder.manifest)
    if not bases:
        raise FolderError(f"{folder.path} has no float32 graph to start from.", hint="Convert the model again.")
    told = reporter or Silent()
    with tuning_folder(folder, precisions) as work:
        made: list[Candidate] = [_described(open_folder(work), bases, "", "float32")]
        for precision in precisions:
            with told.step(f"Make {precision}") as step:
                before = _described(open_folder(work), bases, f"_{_ending(precision)}", precision)
                made.append(before if before.components else _made(work, bases, precision, make))
                known = "made before, " if before.components else ""
                step.done(made[-1].note or f"{known}{made[-1].size_bytes / 1e6:.1f} MB")
        opened = open_folder(work)
        with told.step("Measure loss") as step:
            made = [_with_loss(opened, one, bases, texts) for one in made]
            step.done(_inputs_of(made))
        measured: Sequence[GraphBenchmark] = ()
        if request.target in _MEASURED:
            lengths = usual_lengths(bases[0])[:_LENGTHS]
            measured = bench(work, batches=_BATCHES, lengths=lengths, seconds=_SECONDS, reporter=told).graphs
            made = [_with_times(one, bases, measured) for one in made]
        found = _chosen(made, request)
        tuning = Tuning(request.target, request.max_loss, _machine() if measured else "", _sizes(measured), found)
        return _publish(folder, opened, tuning)


def check_request(request: Request) -> tuple[tuple[str, ...], list[str] | None]:
    """The precisions to make, and the user's texts; what is wrong with a request is told here, without a folder.

    Raises:
        UsageError: an unknown target or precision, or texts that cannot be read.
    """
    return _precisions(request), read_texts(request.data) if request.data is not None else None


def fusions_of(folder: Folder) -> dict[str, tuple[FusionKind, ...]]:
    """For each float32 graph by its name: what `optimize` fuses, and why it leaves the rest.

    Raises:
        MemoryLimitError: the weights do not fit in memory.
    """
    with scratch_beside(folder.path) as scratch:
        return {one.name: explain_fusions(folder.file(one), scratch) for one in converted_components(folder.manifest)}


def _precisions(request: Request) -> tuple[str, ...]:
    if request.target not in _PRECISIONS:
        raise UsageError(
            f"Graphs can be made for {', '.join(TARGETS)}, not for {request.target!r}.",
            hint=did_you_mean(request.target, TARGETS) or "onnxport optimize FOLDER --for cpu",
        )
    if request.precision == "auto":
        return _PRECISIONS[request.target]
    if request.precision in ("fp32", "float32"):
        return ("float32",)
    return (find_precision(request.precision).name,)


def _ending(precision: str) -> str:
    return "optimized" if precision == "float32" else find_precision(precision).suffix


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _made(work: Path, bases: Sequence[Component], precision: str, make: Maker) -> Candidate:
    try:
        make(work, precision)
    except (VerificationError, UsageError, ExportError, MemoryLimitError) as error:
        return Candidate((), precision, note=first_line(error))
    return _described(open_folder(work), bases, f"_{_ending(precision)}", precision)


def _described(work: Folder, bases: Sequence[Component], ending: str, precision: str) -> Candidate:
    found = [work.manifest.find(f"{base.name}{ending}") for base in bases]
    components = [one for one in found if one is not None]
    if len(components) < len(bases):
        return Candidate((), precision, note="not all graphs could be made")
    return Candidate(tuple(one.name for one in components), precision, sum(one.size_bytes for one in components))


def _with_loss(work: Folder, candidate: Candidate, bases: Sequence[Component], texts: list[str] | None) -> Candidate:
    """With the loss of the graph that loses most."""
    from onnxport.runtime.session import OnnxSession

    losses: list[Loss] = []
    for base, name in zip(bases, candidate.components, strict=False):
        component = work.manifest.find(name)
        assert component is not None
        samples = sample_inputs(work, base, texts)
        one, other = OnnxSession(work.file(base)), OnnxSession(work.file(component))
        known = {spec.name for spec in (*other.inputs, *other.optional)}

        def variant(arrays: dict[str, Any], session: OnnxSession = other, names: set[str] = known) -> dict[str, Any]:
            return session.run({key: value for key, value in arrays.items() if key in names})

        losses.append(measure_loss(one.run, variant, samples.arrays, samples.kind))
    return replace(candidate, loss=max(losses, key=lambda loss: loss.mean)) if losses else candidate


def _inputs_of(made: Sequence[Candidate]) -> str:
    return next((one.loss.inputs for one in made if one.loss is not None), "nothing")


def _with_times(
    candidate: Candidate, bases: Sequence[Component], measured: Sequence[GraphBenchmark]
) -> Candidate:  # fmt: skip
    ratios: list[float] = []
    milliseconds = 0.0
    for name, graph in zip(candidate.components, measured, strict=False):
        timings = [timing for timing in graph.timings if timing.arm == name]
        ratios += [timing.of_first for timing in timings]
        milliseconds += 1000 * timings[0].p50 if timings else 0.0
    if not ratios:
        return candidate
    share = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return replace(candidate, milliseconds=milliseconds, of_base=share)


def _chosen(made: Sequence[Candidate], request: Request) -> tuple[Candidate, ...]:
    """The candidates with what is best and what is chosen: the fastest within the budget, or else the smallest."""
    usable = [one for one in made if one.components and one.loss is not None]
    within = [one for one in usable if one.loss is not None and one.loss.mean <= request.max_loss]
    if request.precision != "auto" and len(within) > 1:
        within = within[1:]  # what was asked for
    fastest = min(within or usable[:1], key=_cost)
    alike = [one for one in within if _cost(one) <= _cost(fastest) * _TIE]
    winner = min(alike or [fastest], key=_mean)
    marked = []
    for one in made:
        beaten = any(
            other is not one and _cost(other) <= _cost(one) and _mean(other) <= _mean(one)
            and (_cost(other), _mean(other)) != (_cost(one), _mean(one))
            for other in usable
        )  # fmt: skip
        note = one.note
        if not note and one in usable and one not in within and _mean(one) > request.max_loss:
            note = "loses more than the budget"
        marked.append(replace(one, best=one in usable and not beaten, chosen=one is winner, note=note))
    return tuple(marked)


def _cost(candidate: Candidate) -> float:
    return candidate.of_base if candidate.of_base is not None else float(candidate.size_bytes)


def _mean(candidate: Candidate) -> float:
    return candidate.loss.mean if candidate.loss is not None else math.inf


def _publish(folder: Folder, work: Folder, tuning: Tuning) -> Path:
    """Add the chosen graphs to the folder."""
    winner = next(one for one in tuning.candidates if one.chosen)
    components = [one for one in work.manifest.components if one.name in winner.components and one.derived_from]
    kept = {path for one in work.manifest.converted() for path in files_of(one)}
    own = [path for one in components for path in files_of(one) if path not in kept]
    size = sum((work.path / path).stat().st_size for path in own)
    with new_folder(folder, own, new_bytes=size) as made:
        for path in dict.fromkeys(own):
            _link(str(work.path / path), str(made.root / path))
        made.take_rest()
        made.publish(replace(with_components(folder.manifest, components), tuning=tuning))
    chosen = work.manifest.find(winner.components[-1])
    assert chosen is not None
    return folder.path / chosen.file


def _sizes(measured: Sequence[GraphBenchmark]) -> str:
    found = [
        f"{timing.label} {timing.batch}x{timing.length}".strip() for graph in measured[:1]
        for timing in graph.timings if timing.arm == graph.timings[0].arm
    ]  # fmt: skip
    return ", ".join(found)


def _machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors"
