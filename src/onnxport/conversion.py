"""The recipe: from a checkpoint to a verified ONNX folder.

`convert` reads top to bottom as the steps that the user sees. Nothing is published before
source and graph agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport._version import __version__
from onnxport.artifact.destination import check_destination, check_file_destination, check_free_space
from onnxport.artifact.folder import write_manifest
from onnxport.artifact.manifest import Component, Manifest, Verification
from onnxport.artifact.staging import FileStaging, Staging, stage, stage_file
from onnxport.collector import collector_paused
from onnxport.errors import UsageError, VerificationError
from onnxport.graph.write import WeightFiles, write_graph
from onnxport.memory import memory_limit as memory_limited
from onnxport.memory import require_memory
from onnxport.progress import Reporter, Silent
from onnxport.quiet import quiet
from onnxport.tasks import find_task
from onnxport.timing import Stopwatch, peak_memory_bytes

if TYPE_CHECKING:
    from onnxport.comparison import Case
    from onnxport.graph.build import Graph
    from onnxport.greedy import GreedyCase
    from onnxport.subject import Subject

GRAPH_FILE = "onnx/model.onnx"
# onnxruntime's quantizer holds the weights as a message, as arrays and once more as what it writes.
_QUANTIZER_COPIES = 3


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        path: the folder or the graph file.
        manifest: components, axes and the evidence of verification.
        files: everything that was written.
        timings, cpu: wall and CPU seconds of each step.
        peak_memory_bytes: highest resident memory of the process.
    """

    path: Path
    manifest: Manifest
    files: tuple[Path, ...]
    timings: dict[str, float]
    cpu: dict[str, float]
    peak_memory_bytes: int

    @property
    def passed(self) -> bool:
        """Whether every component agrees with its source; False only with `allow_mismatch`."""
        checks = [component.verification for component in self.manifest.components]
        return all(check is not None and check.passed for check in checks)


def convert(
    framework: str | None,
    model: Any,
    output: str | Path,
    opset: int | None = None,
    tokenizer: Any = None,
    use_external_format: bool = False,
    pipeline_name: str = "auto",
    *,
    overwrite: bool = False,
    quantize: bool = False,
    allow_mismatch: bool = False,
    sample_inputs: Any = None,
    shard_size: int | None = None,
    link_weights: bool = False,
    memory_limit: int | None = None,
    reporter: Reporter | None = None,
    **model_kwargs: Any,
) -> Conversion:
    """Convert a model to ONNX, and publish it only if its numbers are the source's.

    Args:
        framework: "pt", "tf", or None: found from the checkpoint.
        model: a folder, a model of the hub, a live transformers model, or with `sample_inputs` any
            torch.nn.Module.
        output: a folder to make; or a path ending in `.onnx`: then the graph alone is written there.
        opset: None is the newest that the installed ONNX Runtime runs at full speed.
        tokenizer: the model's by default.
        use_external_format: weights beside the graph; beyond 2 GB that happens by itself.
        pipeline_name: a task, or "auto": read from the checkpoint's architecture.
        overwrite: replace a folder that onnxport wrote.
        quantize: also write a dynamically quantized int8 graph, verified with its own tolerance.
        allow_mismatch: publish a graph whose numbers differ; the evidence says so.
        sample_inputs: for a plain module: a tensor, a tuple in the forward's order, or a dict.
        shard_size: most bytes of one weights file; one file of any size by default.
        link_weights: link the checkpoint's weight files instead of copying them, and use them as they are.
        memory_limit: most bytes of memory to take; 80 % of what is free by default.
        reporter: told about every step; silent by default.
        model_kwargs: `allow_missing_weights`, `allow_pickle`, `trust_remote_code`, `revision`, `token`
            and what `from_pretrained` takes.

    Raises:
        OnnxPortError: what was wrong; nothing was written. VerificationError: the numbers differ.
    """
    from onnxport.export.opset import choose_opset
    from onnxport.subject import load_subject

    if pipeline_name != "auto":
        find_task(pipeline_name)  # a wrong name is told before anything is loaded
    if quantize and link_weights:
        raise UsageError(
            "int8 quantization cannot read weights that are linked (onnx refuses files with two names). "
            "Nothing was written.",
            hint="Leave --link-weights or --quantize out.",
        )
    output = Path(output).expanduser()
    check = check_file_destination if output.suffix == ".onnx" else check_destination
    check(output, overwrite=overwrite)
    _require_exporter()
    opset = choose_opset(opset)

    files = WeightFiles(use_external_format, shard_size, link_weights)
    watch = Stopwatch(reporter or Silent())
    with quiet(), collector_paused(), memory_limited(memory_limit):
        with watch.step("load", "Load") as step:
            subject = load_subject(framework, model, tokenizer, pipeline_name, sample_inputs, model_kwargs)
            step.done(f"{subject.architecture}, {subject.task.name}, {_count(subject.source.parameters)} parameters")
        for note in subject.notes:
            watch.reporter.note(note)
        _check_resources(subject, output, files, quantize)
        graph, cases = _capture(subject, opset, watch, keep_stored=files.link)
        architecture, source_version = subject.architecture, subject.source.version
        manifest = _manifest(subject)
        with _stage(output, overwrite) as staging:
            return _publish(
                staging, output, subject, graph, cases, manifest, watch,
                files=files, quantized=quantize, allow_mismatch=allow_mismatch,
                source=f"{source_version} ({architecture})",
            )  # fmt: skip


def convert_pytorch(nlp: Any, opset: int | None, output: str | Path, use_external_format: bool = False) -> Verification:
    """Export a pipeline's model through torch.onnx to the graph file `output`, and verify it.

    Args:
        nlp: a pipeline, as `load_graph_from_args` or `pipeline` returns it.
        opset: None is the default of `convert`.
        output: path of the graph; an existing graph there is replaced.
        use_external_format: weights in `<output>_data`; beyond 2 GB that happens by itself.

    Raises:
        OnnxPortError: as `convert`; nothing was written.
    """
    from onnxport.export.opset import choose_opset
    from onnxport.subject import subject_of

    output = Path(output).expanduser()
    if output.suffix != ".onnx":
        raise UsageError(f"{output} does not end in .onnx. Nothing was written.", hint="`convert` writes folders.")
    opset = choose_opset(opset)
    with quiet(), collector_paused(), stage_file(output, overwrite=True) as staging:
        subject = subject_of(nlp, "pt")
        graph, cases = _capture(subject, opset, Stopwatch(Silent()))
        with Silent().step("write") as step:
            write_graph(graph, staging.path / output.name, output, WeightFiles(use_external_format), step)
        verification = _verify(staging.path / output.name, graph, cases, subject, subject.source.version)
        _require_agreement(verification, allow_mismatch=False)
        staging.publish()
    return verification


def _check_resources(subject: Subject, output: Path, files: WeightFiles, quantize: bool) -> None:
    """Memory and disk, before the long steps.

    Raises:
        MemoryLimitError, OutputError: there is too little; nothing was written.
    """
    weights = subject.source.weight_bytes
    require_memory(
        subject.source.largest_copy_bytes + (_QUANTIZER_COPIES * weights if quantize else 0),
        f"Converting {subject.name}",
        "Leave --quantize out." if quantize else "Convert on a machine with more memory.",
    )
    check_free_space(output, (0 if files.link else weights) + (weights // 4 if quantize else 0))


def _capture(
    subject: Subject, opset: int, watch: Stopwatch, *, keep_stored: bool = False
) -> tuple[Graph, list[Case | GreedyCase]]:
    """Axes, reference numbers, graph. The reference is computed before the exporter touches the model."""
    from onnxport.comparison import record
    from onnxport.graph.build import build_graph
    from onnxport.shapes import infer_signature

    with watch.step("infer shapes", "Infer shapes") as step, subject.source.weights_kept():
        signature = infer_signature(subject.source, subject.sampler)
        step.done(_axes_summary(signature))
    with watch.step("reference", "Run the source model") as step:
        cases = record(subject.source, signature)
        step.done(f"{len(cases)} sets of inputs")
    with watch.step("export", f"Export to opset {opset}") as step:
        graph = build_graph(subject.source, signature, opset, keep_stored=keep_stored)
        step.done(f"{sum(graph.stats.operators.values())} nodes")
    if graph.signature.accepted != signature.accepted or graph.signature.multiples != signature.multiples:
        with watch.step("reference", "Run the source model again, at the axes that the export allows"):
            cases = record(subject.source, graph.signature)
    return graph, cases


def _publish(
    staging: Staging, output: Path, subject: Subject, graph: Graph, cases: list[Case | GreedyCase], manifest: Manifest,
    watch: Stopwatch, *, files: WeightFiles, quantized: bool, allow_mismatch: bool, source: str,
) -> Conversion:  # fmt: skip
    """Write into the staging folder, verify there, and put it in place."""
    from onnxport.artifact.card import render_card
    from onnxport.artifact.weights_file import write_weights
    from onnxport.artifact.written import check_written
    from onnxport.assets import write_assets
    from onnxport.graph.quantize import quantize_dynamic, quantized_name

    single = isinstance(staging, FileStaging)
    file = staging.path / (output.name if single else GRAPH_FILE)
    with watch.step("write", "Write") as step:
        written = write_graph(graph, file, output if single else output / GRAPH_FILE, files, step)
        checksum = None if single else write_weights(file, written, staging.path)
        if not single and subject.nlp is not None:
            write_assets(subject.nlp, subject.origin, staging.path, subject.replaced)
        step.done(f"{written.size_bytes / 1e6:.1f} MB")
    graph.release()  # the weights are on disk now, and the session needs the memory
    subject.release()
    component = _component("model", file, staging.path, graph, "float32")
    components = [replace(component, data_files=_relative(written.files[1:], staging.path), weights_checksum=checksum)]
    with watch.step("verify", "Verify") as step:
        check_written(file.parent, written)
        verification = _verify(file, graph, cases, subject, source)
        step.done(_verification_summary(verification))
    _require_agreement(verification, allow_mismatch)
    components = [replace(components[0], verification=verification)]
    if quantized:
        target = file.with_name(quantized_name(file.name, single=single))
        with watch.step("quantize", "Quantize to int8") as step:
            quantize_dynamic(file, target)
            step.done(f"{target.stat().st_size / 1e6:.1f} MB")
        with watch.step("verify", "Verify int8") as step:
            verification = _verify(target, graph, cases, subject, source, "int8")
            step.done(_verification_summary(verification))
        _require_agreement(verification, allow_mismatch)
        component = _component("model_quantized", target, staging.path, graph, "int8")
        components.append(replace(component, verification=verification))
    with watch.step("publish", "Publish") as step:
        manifest = replace(manifest, components=tuple(components))
        if not single:
            (staging.path / "README.md").write_text(render_card(manifest, output.name), encoding="utf-8")
            folder = file.parent.relative_to(staging.path)
            hashes = {(folder / name).as_posix(): value for name, value in written.sha256.items()}
            manifest = write_manifest(staging.path, manifest, hashes)
        published = staging.publish()
        step.done(str(output))
    paths = published if single else tuple(output / name for name in (*manifest.files, "onnxport.json"))
    return Conversion(output, manifest, paths, watch.wall, watch.cpu, peak_memory_bytes())


def _verify(
    file: Path, graph: Graph, cases: list[Case | GreedyCase], subject: Subject, source: str, precision: str = "float32"
) -> Verification:
    from onnxport.comparison import compare

    return compare(
        file,
        cases,
        decision=subject.task.decision,
        outputs=graph.signature.outputs,
        source=source,
        precision=precision,
    )


def _require_agreement(verification: Verification, allow_mismatch: bool) -> None:
    if verification.passed or allow_mismatch:
        return
    case = next(case for case in verification.cases if not case.ok)
    where = ", ".join(f"{name} {size}" for name, size in case.sizes.items())
    if case.error is not None:
        what = case.error
    else:
        output = next(output for output in case.outputs if not output.ok)
        what = (
            f"{output.name} {list(output.shape)} is off by {output.max_abs_error:.3g} at most, "
            f"{output.tolerance:.3g} is allowed"
        )
    raise VerificationError(
        f"The graph disagrees with the source model in the case {case.name!r} ({where}): {what}. "
        "Nothing was published.",
        hint="Try another --opset. --allow-mismatch publishes it all the same, with this on record.",
        verification=verification,
    )


def _component(name: str, file: Path, root: Path, graph: Graph, precision: str) -> Component:
    from onnxport.graph.stats import file_bytes, file_operators

    return Component(
        name=name,
        file=file.relative_to(root).as_posix(),
        opset=graph.stats.opset,
        precision=precision,
        parameters=graph.stats.parameters,
        inputs=graph.inputs,
        outputs=graph.signature.outputs,
        restrictions=graph.signature.restrictions,
        fixes=graph.fixes,
        operators=graph.stats.operators if precision == "float32" else file_operators(file),
        size_bytes=file_bytes(file),
    )


def _manifest(subject: Subject) -> Manifest:
    import onnx
    import onnxruntime
    import torch
    import transformers

    versions = {
        "onnxport": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return Manifest(
        task=subject.task.name,
        framework=subject.source.framework,
        source=subject.name,
        architecture=subject.architecture,
        versions=versions,
        components=(),
        notes=subject.notes,
    )


def _relative(files: Iterable[Path], root: Path) -> tuple[str, ...]:
    return tuple(file.relative_to(root).as_posix() for file in files)


def _stage(output: Path, overwrite: bool) -> Staging:
    return stage_file(output, overwrite=overwrite) if output.suffix == ".onnx" else stage(output, overwrite=overwrite)


def _require_exporter() -> None:
    from onnxport.pipelines.factory import require_pytorch

    require_pytorch()


def _axes_summary(signature: Any) -> str:
    dynamic = list(dict.fromkeys(axis for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)))
    return (
        f"{len(signature.inputs)} inputs, {len(signature.outputs)} outputs, "
        + (f"dynamic: {', '.join(dynamic)}" if dynamic else "all axes fixed")
    )  # fmt: skip


def _verification_summary(verification: Verification) -> str:
    word = "agree" if verification.passed else "DISAGREE"
    return f"{len(verification.cases)} sets of inputs {word}, largest error {verification.max_abs_error:.2g}"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"
