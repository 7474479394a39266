"""The recipe: from a checkpoint to a verified ONNX folder.

`convert` reads top to bottom as the steps that the user sees. Nothing is published before
source and graph agree.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.api.publish import Output, publish
from onnxport.artifact.hashes import require_unchanged
from onnxport.artifact.results import Conversion
from onnxport.errors import UsageError, nothing_written
from onnxport.graph.quantization.quantize import QUANTIZER_COPIES
from onnxport.graph.write import WeightFiles, write_graphs
from onnxport.progress import Reporter, Silent
from onnxport.publishing.destination import check_destination, check_file_destination, check_free_space
from onnxport.publishing.staging import Staging, stage, stage_file
from onnxport.specs import Verification
from onnxport.system.garbage_collection import collector_paused
from onnxport.system.memory import memory_limit as memory_limited
from onnxport.system.memory import require_memory
from onnxport.system.timing import Stopwatch
from onnxport.tasks import find_task

if TYPE_CHECKING:
    from onnxport.loading.model_to_export import ModelToExport
    from onnxport.loading.options import LoadOptions
    from onnxport.loading.resolve import ResolvedModel


@nothing_written()
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
    verify_level: str = "standard",
    require_dynamic: bool = False,
    reporter: Reporter | None = None,
    **model_kwargs: Any,
) -> Conversion:
    """Convert a model to ONNX, and publish it only if its numbers are the source's.

    Args:
        framework: "pt", "tf", or None: found from the checkpoint.
        model: a folder, a model of the hub, a `.keras` or `.h5` file, a SavedModel folder, a live transformers
            or Keras model, or with `sample_inputs` any torch.nn.Module.
        output: a folder to make; or a path ending in `.onnx`: then the graph alone is written there.
        opset: None is the newest that the installed ONNX Runtime runs at full speed; of TensorFlow, that
            tf2onnx writes.
        tokenizer: the model's by default.
        use_external_format: weights beside the graph; beyond 2 GB that happens by itself.
        pipeline_name: a task, or "auto": read from the checkpoint's architecture.
        overwrite: replace a folder that onnxport wrote.
        quantize: also write a dynamically quantized int8 graph, verified with its own tolerance.
        allow_mismatch: publish a graph whose numbers differ; the evidence says so.
        sample_inputs: for a plain module or Keras model: a tensor, a tuple in the forward's order, or a dict.
        shard_size: most bytes of one weights file; one file of any size by default.
        link_weights: link the checkpoint's weight files instead of copying them, and use them as they are.
        memory_limit: most bytes of memory to take; 80 % of what is free by default.
        verify_level: how much is compared: "quick", "standard" or "thorough". "standard" adds sizes at the ends of
            each axis and past the thresholds that the model names, as far as they cost little; "thorough" all of them.
        require_dynamic: raise an error if the export makes an axis static at which the source runs with several
            sizes; by default the graph is written with a note and a restriction.
        reporter: told about every step; silent by default.
        model_kwargs: `allow_missing_weights`, `allow_unused_weights`, `allow_pickle`, `trust_remote_code`, `revision`,
            `token`, `dequantize` and what `from_pretrained` takes; `signature` of a SavedModel.

    Raises:
        OnnxPortError: what was wrong; nothing was written. VerificationError: the numbers differ.
    """
    from onnxport.api.capture import capture_graphs
    from onnxport.environments import call_in
    from onnxport.export.opset import choose_opset
    from onnxport.loading.options import load_options
    from onnxport.loading.resolve import resolve_model
    from onnxport.user_runs.record import record_answers
    from onnxport.verification.level import find_level

    # Whatever can be wrong is told before anything is loaded.
    output = Path(output).expanduser()
    _require_task(pipeline_name)
    level = find_level(verify_level)
    _require_weights_to_quantize(quantize=quantize, link_weights=link_weights)
    _require_destination(output, overwrite=overwrite)
    options = load_options({"tokenizer": tokenizer, **model_kwargs})
    resolved = resolve_model(model, framework, options, sample_inputs)
    opset = choose_opset(opset, resolved.framework)
    if resolved.environment is not None:
        converted: Conversion = call_in(
            resolved.environment, "convert",
            dict(
                framework=resolved.framework, model=model, output=output, opset=opset, tokenizer=tokenizer,
                use_external_format=use_external_format, pipeline_name=pipeline_name, overwrite=overwrite,
                quantize=quantize, allow_mismatch=allow_mismatch, shard_size=shard_size,
                link_weights=link_weights, memory_limit=memory_limit, verify_level=str(level),
                require_dynamic=require_dynamic, **model_kwargs,
            ),
            reporter or Silent(),
        )  # fmt: skip
        return converted
    _require_exporter(resolved.framework)

    def load_again() -> ModelToExport:
        from onnxport.loading.model_to_export import load_model_to_export

        return load_model_to_export(resolved, pipeline_name, options)

    files = WeightFiles(use_external_format, shard_size, link_weights)
    watch = Stopwatch(reporter or Silent())
    with collector_paused(), memory_limited(memory_limit):
        to_export = _load(resolved, pipeline_name, options, watch)
        _require_one_graph(to_export, output)
        _check_resources(to_export, output, files, quantize)
        source = None if output.suffix == ".onnx" else record_answers(to_export)
        graphs = capture_graphs(
            to_export, opset, watch, keep_stored=files.link, level=level, require_dynamic=require_dynamic
        )
        with _stage(output, overwrite) as staging:
            written = Output(output, staging, files, quantize, allow_mismatch, load_again)
            return publish(written, to_export, graphs, source, watch)


def _require_task(name: str) -> None:
    if name != "auto":
        find_task(name)


def _require_weights_to_quantize(*, quantize: bool, link_weights: bool) -> None:
    if quantize and link_weights:
        raise UsageError(
            "int8 quantization cannot read weights that are linked (onnx refuses files with two names).",
            hint="Leave --link-weights or --quantize out.",
        )


def _require_destination(output: Path, *, overwrite: bool) -> None:
    check = check_file_destination if output.suffix == ".onnx" else check_destination
    check(output, overwrite=overwrite)


def _load(resolved: ResolvedModel, task: str, options: LoadOptions, watch: Stopwatch) -> ModelToExport:
    """The model, and on the way what a user must know of it."""
    from onnxport.loading.model_to_export import load_model_to_export

    with watch.step("load", "Load") as step:
        found = load_model_to_export(resolved, task, options)
        step.done(f"{found.architecture}, {found.task.name}, {_count(found.source.parameters)} parameters")
    for note in found.notes:
        watch.reporter.note(note)
    return found


@nothing_written()
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
    from onnxport.loading.model_to_export import from_pipeline

    return _convert_to_file(lambda: from_pipeline(nlp, "pt"), "pt", opset, output, use_external_format)


@nothing_written()
def convert_tensorflow(nlp: Any, opset: int | None, output: str | Path) -> Verification:
    """Export a model through tf2onnx to the graph file `output`, and verify it.

    Args:
        nlp: a Keras model, a `.keras` or `.h5` file, a SavedModel folder, or a pipeline of transformers' TensorFlow
            classes (transformers 4).
        opset: None is the default of `convert`.
        output: path of the graph; an existing graph there is replaced. Beyond 2 GB its weights are in
            `<output>_data`.

    Raises:
        OnnxPortError: as `convert`; nothing was written.
    """
    from onnxport.loading.model_to_export import from_pipeline_or_model

    return _convert_to_file(lambda: from_pipeline_or_model(nlp, "tf"), "tf", opset, output, external=False)


def _convert_to_file(
    load: Callable[[], ModelToExport], framework: str, opset: int | None, output: str | Path, external: bool
) -> Verification:
    from onnxport.api.capture import capture_graphs, verify_captured
    from onnxport.export.opset import choose_opset
    from onnxport.verification.evidence import require_agreement

    output = Path(output).expanduser()
    if output.suffix != ".onnx":
        raise UsageError(f"{output} does not end in .onnx.", hint="`convert` writes folders.")
    opset = choose_opset(opset, framework)
    _require_exporter(framework)
    with collector_paused(), memory_limited(), stage_file(output, overwrite=True) as staging:
        to_export = load()
        _require_one_graph(to_export, output)
        (captured,) = capture_graphs(to_export, opset, Stopwatch(Silent()))
        file = staging.path / output.name
        with Silent().step("write") as step:
            files = WeightFiles(external, taken=staging.taken)
            (written,) = write_graphs([captured.graph], [file], output.parent, files, step)
        captured.weights.prove(file)
        verification = verify_captured(captured, file, [file])
        require_agreement(verification)
        staging.publish(lambda: require_unchanged(staging.path, written.sha256))
    return verification


def _check_resources(to_export: ModelToExport, output: Path, files: WeightFiles, quantize: bool) -> None:
    """Memory and disk, before the long steps.

    Raises:
        MemoryLimitError, OutputError: there is too little; nothing was written.
    """
    weights = to_export.source.weight_bytes
    require_memory(
        to_export.source.largest_copy_bytes + (QUANTIZER_COPIES * weights if quantize else 0),
        f"Converting {to_export.name}",
        "Leave --quantize out." if quantize else "Convert on a machine with more memory.",
    )
    check_free_space(output, (0 if files.link else weights) + (weights // 4 if quantize else 0))


def _require_one_graph(to_export: ModelToExport, output: Path) -> None:
    """A file holds one graph.

    Raises:
        UsageError: the output is a file, and the model becomes several graphs.
    """
    if output.suffix == ".onnx" and len(to_export.parts) > 1:
        names = " and ".join(f"{part.name}.onnx" for part in to_export.parts)
        raise UsageError(
            f"{to_export.architecture} becomes {names}, and {output.name} is one file.",
            hint=f"Give a folder: {output.with_suffix('')}",
        )


def _stage(output: Path, overwrite: bool) -> Staging:
    return stage_file(output, overwrite=overwrite) if output.suffix == ".onnx" else stage(output, overwrite=overwrite)


def _require_exporter(framework: str) -> None:
    from onnxport.system.requirements import require_pytorch, require_tensorflow

    if framework == "tf":
        require_tensorflow()
    else:
        require_pytorch()


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"
