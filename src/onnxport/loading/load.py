"""From a model name, a folder or a live model to a pipeline that can be converted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import TaskError, UsageError
from onnxport.loading.options import LoadOptions, load_options
from onnxport.loading.resolve import ModelKind, ResolvedModel, resolve_model
from onnxport.system.requirements import require_pytorch
from onnxport.tasks import Task, find_task

AUTO = "auto"


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline, and the model that was loaded into it.

    Attributes:
        pipeline: `pipeline.model` is in eval mode; `pipeline.tokenizer` and the like are None where the checkpoint has
            none. What loading found out is written on it (`parts.record_loading`), and read from there here.
        resolved: what the user gave.
    """

    pipeline: Any
    resolved: ResolvedModel

    @property
    def task(self) -> Task:
        """The row of the task table."""
        return find_task(self.pipeline.task)

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self.resolved.checkpoint

    @property
    def missing_weights(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self.pipeline.missing_weights
        return found

    @property
    def dropped_outputs(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self.pipeline.dropped_outputs
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self.pipeline.notes
        return found


def load_graph_from_args(
    pipeline_name: str, framework: str | None, model: Any, tokenizer: Any = None, **models_kwargs: Any
) -> Any:
    """The pipeline of a model name or folder.

    Args:
        pipeline_name: a task ("feature-extraction", "ner", ...), or "auto": read from the checkpoint's architecture.
        framework: "pt", "tf", or None: found from the checkpoint.
        model: a folder, a GGUF file, a model of the hub, or a live transformers model.
        tokenizer: a live tokenizer, or where to load one from; the model's by default.
        models_kwargs: `allow_missing_weights`, `allow_pickle`, `trust_remote_code`, `revision`, `token`, `dtype`,
            `device`, `feature_extractor`, `image_processor`, `processor`; the rest goes to `from_pretrained`
            (attn_implementation, config, ...).

    Raises:
        OnnxPortError: as `load`.

    Example:
        >>> nlp = load_graph_from_args("ner", "pt", "dslim/bert-base-NER")  # doctest: +SKIP
    """
    return load(pipeline_name, framework, model, tokenizer, **models_kwargs).pipeline


def load(
    pipeline_name: str, framework: str | None, model: Any, tokenizer: Any = None, **settings: Any
) -> LoadedPipeline:
    """As `load_graph_from_args`, with what was found on the way.

    Raises:
        UsageError: an unknown framework or argument.
        TaskError: an unknown task, or one that the architecture has no head for.
        CheckpointError: missing, broken or incomplete; UntrustedCheckpointError where code would be run.
        MissingDependencyError: torch, transformers or a library that the model needs is not installed; or this process
            has no TF classes.
    """
    if pipeline_name != AUTO:
        find_task(pipeline_name)  # whatever can be wrong with what was typed is told before frameworks are imported
    options = load_options({"tokenizer": tokenizer, **settings})
    return load_pipeline(resolve_model(model, framework, options), pipeline_name, options)


def load_pipeline(resolved: ResolvedModel, task: str, options: LoadOptions) -> LoadedPipeline:
    """Load a model into the pipeline of a task, and check that all of it is there.

    Args:
        task: a name or alias, of the table or of transformers; or "auto": read from the model's architecture.

    Raises:
        as `load`.
    """
    if resolved.kind in (ModelKind.TENSORFLOW_FILES, ModelKind.KERAS_MODEL):
        raise UsageError(
            f"{resolved.name} is a Keras model or SavedModel without a tokenizer or processor: it has no pipeline.",
            hint="`convert` and `infer_shapes` take it as it is.",
        )
    if resolved.kind is ModelKind.MODULE:
        raise UsageError(
            f"A {resolved.name} is not a transformers model, so there is no pipeline for it.",
            hint="`convert(model, ..., sample_inputs=...)` takes any torch.nn.Module.",
        )
    if resolved.framework == "tf":
        from onnxport.loading.tensorflow import prepare_tensorflow

        prepare_tensorflow()
    else:
        require_pytorch()
    from onnxport.loading.gguf import with_described_config
    from onnxport.loading.transformers_version import newer_note, written_by

    if resolved.checkpoint is not None:
        resolved = replace(resolved, checkpoint=with_described_config(resolved.checkpoint))
    merged: tuple[str, ...] = ()
    if resolved.kind is ModelKind.TRANSFORMERS_MODEL and hasattr(resolved.model, "merge_and_unload"):
        from onnxport.loading.adapters import merged_copy

        model, merged = merged_copy(resolved.model)
        resolved = replace(resolved, model=model)
    task, notes = _choose_task(resolved, task, options)
    assembled = _assemble_tensorflow if resolved.framework == "tf" else _assemble
    pipeline = assembled(resolved, task, options)
    newer = newer_note(written_by(resolved.checkpoint.config)) if resolved.checkpoint is not None else None
    pipeline.notes = (*notes, *merged, *((newer,) if newer else ()), *pipeline.notes)
    return LoadedPipeline(pipeline, resolved)


def _choose_task(resolved: ResolvedModel, task: str, options: LoadOptions) -> tuple[str, tuple[str, ...]]:
    """(name of the task, notes about the choice).

    Raises:
        TaskError: the model is for no task, or its family has no head for the one that was asked for.
    """
    from onnxport.loading.task_detection import check_task, detect_task, identity_of, identity_of_model

    if resolved.checkpoint is None:
        identity = identity_of_model(resolved.model, resolved.framework)
    else:
        identity = identity_of(
            resolved.checkpoint, trust_remote_code=options.trust_remote_code, framework=resolved.framework
        )
    if task == AUTO:
        detected = detect_task(identity)
        return detected.task.name, detected.notes
    try:
        row = find_task(task)
    except TaskError:  # transformers may have it
        return task, ()
    if resolved.checkpoint is not None:
        check_task(row, identity)
    return row.name, ()


def _assemble(resolved: ResolvedModel, task: str, options: LoadOptions) -> Any:
    from onnxport.loading.assembly import assemble, assemble_live
    from onnxport.loading.registry import find_spec

    if resolved.checkpoint is not None:
        return assemble(find_spec(task), resolved.checkpoint, options)
    return assemble_live(find_spec(task), resolved.model, options)


def _assemble_tensorflow(resolved: ResolvedModel, task: str, options: LoadOptions) -> Any:
    from onnxport.loading.tensorflow import assemble_live_tensorflow, assemble_tensorflow

    if resolved.checkpoint is not None:
        return assemble_tensorflow(find_task(task), resolved.checkpoint, options)
    return assemble_live_tensorflow(find_task(task), resolved.model, options)
