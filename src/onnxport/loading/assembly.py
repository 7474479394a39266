"""From a task and a checkpoint to a pipeline object, and the judgement of parameters that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError, UsageError
from onnxport.loading.components import Components, load_components
from onnxport.loading.options import LoadOptions
from onnxport.loading.registry import PipelineSpec, find_spec
from onnxport.loading.weights import LoadedModel, describe_missing, load_model, readable_errors


@dataclass(frozen=True)
class Assembled:
    """A pipeline, and what happened on the way to it.

    Attributes:
        pipeline: the pipeline object; carries `task`, `missing_weights`, `dropped_outputs` and `notes`.
        missing_weights: parameters that the checkpoint lacks, and that are random now.
        dropped_outputs: outputs that depend on those, and must not be exported.
        notes: what a user should know.
    """

    pipeline: Any
    missing_weights: tuple[str, ...] = ()
    dropped_outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def assemble(
    spec: PipelineSpec,
    checkpoint: Checkpoint,
    given: Mapping[str, Any],
    options: LoadOptions,
    pipeline_class: type[Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Assembled:
    """Load a checkpoint into the pipeline of a task.

    Args:
        spec: the task.
        checkpoint: what to load.
        given: components that the caller chose: "tokenizer", "image_processor", ...
        options: permissions, type and place.
        pipeline_class: use this class instead of the task's.
        arguments: further arguments of the pipeline class.

    Raises:
        CheckpointError: something cannot be read; or parameters that matter are not in the checkpoint.
        TaskError: the family has no head for the task.
        MissingDependencyError: a library is not installed.
    """
    cls = pipeline_class or spec.load_class()
    encoder = spec.task == "feature-extraction" and checkpoint.is_sentence_transformers
    if encoder:
        from onnxport.loading.encoder import load_encoder

        loaded, tokenizer_settings = load_encoder(checkpoint, options)
        arguments = {"tokenize_kwargs": {"truncation": True}, **(arguments or {})}
    else:
        loaded, tokenizer_settings = load_model(checkpoint.model_folder, checkpoint, spec.auto, options), None
    folder: Path | None = checkpoint.model_folder
    if checkpoint.weights_format == "gguf":
        from onnxport.loading.gguf import gguf_components

        folder, given, gguf_notes = gguf_components(checkpoint, given)
        loaded = replace(loaded, notes=(*loaded.notes, *gguf_notes))
    components = load_components(
        folder,
        cls,
        dict(given),
        trust_remote_code=options.trust_remote_code,
        vocabulary_size=_vocabulary_size(loaded.model),
    )
    if tokenizer_settings is not None and components.tokenizer is not None:
        tokenizer_settings.apply(components.tokenizer)
    dropped, notes = _judge_missing(spec, checkpoint, loaded, components, options)
    pipeline = make_pipeline(spec, loaded.model, components, cls, options.device, arguments)
    return finish(
        pipeline, spec, loaded.missing, dropped, (*checkpoint.notes, *loaded.notes, *components.notes, *notes)
    )


def make_pipeline(
    spec: PipelineSpec,
    model: Any,
    components: Components,
    pipeline_class: type[Any],
    device: Any = None,
    arguments: Mapping[str, Any] | None = None,
) -> Any:
    """Put a model and its components into a pipeline; a bare one where a component that it needs is missing."""
    if not components.complete:
        from onnxport.loading.bare import BarePipeline

        pipeline_class, arguments = BarePipeline, {}
    settings = {**spec.defaults, **(arguments or {})} if components.complete else {}
    if getattr(model, "hf_device_map", None) is None:
        # Left to itself, transformers moves a model to whatever accelerator there is.
        settings["device"] = model.device if device is None else device
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    with readable_errors(name):  # a pipeline class refuses a tokenizer without a mask token, a missing library, ...
        return pipeline_class(model=model, task=spec.task, **components.arguments(), **settings)


def finish(
    pipeline: Any,
    spec: PipelineSpec,
    missing: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Assembled:
    """Write on the pipeline object what the steps after loading must know."""
    pipeline.task = spec.task
    pipeline.missing_weights, pipeline.dropped_outputs, pipeline.notes = missing, dropped, notes
    return Assembled(pipeline, missing, dropped, notes)


def _judge_missing(
    spec: PipelineSpec, checkpoint: Checkpoint, loaded: LoadedModel, components: Components, options: LoadOptions
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(outputs to drop, notes) for parameters that the checkpoint lacks.

    Raises:
        CheckpointError: an output that the task needs depends on them, and it was not allowed.
    """
    if not loaded.missing:
        return (), ()
    names = describe_missing(loaded.missing, loaded.shapes)
    if options.allow_missing_weights:
        return (), (f"Random, because the checkpoint lacks them (it was allowed): {names}.",)
    from onnxport.loading.probe import outputs_that_depend

    kind = spec.row.kind if spec.row is not None else None
    depends = outputs_that_depend(loaded.model, loaded.missing, components, kind)
    if depends is not None and spec.row is not None:
        kept = [name for name in spec.row.outputs if name in depends]
        random = [name for name in kept if depends[name]]
        # Where the outputs are the result themselves, one of them can go. Where a label or a box
        # is made of them, all are needed. The first, and a sentence embedding, never go.
        needed = kept if spec.row.decision is not None else [*kept[:1], "sentence_embedding"]
        if kept and not set(random) & set(needed):
            if not random:
                return (), (f"Not in the checkpoint, and no output depends on them: {names}.",)
            outputs = ", ".join(random)
            return tuple(random), (f"{outputs} was left out: the checkpoint lacks its weights ({names}).",)
    raise _random_weights(spec, checkpoint, loaded, names)


def _random_weights(spec: PipelineSpec, checkpoint: Checkpoint, loaded: LoadedModel, names: str) -> CheckpointError:
    from onnxport.loading.task_detection import identity_of, own_tasks

    own = [name for name in own_tasks(identity_of(checkpoint)) if name != spec.task]
    if checkpoint.weights_format == "gguf":
        own, names = [], f"{names} (transformers does not find all of them in GGUF files of every architecture)"
    made_for = f"The checkpoint is for {' or '.join(own[:3])}: choose that with `--task`. Or " if own else "To "
    return CheckpointError(
        f"The weights of {checkpoint.source} lack {len(loaded.missing)} parameters of "
        f"{type(loaded.model).__name__}: {names} would be random.",
        hint=f"{made_for}convert it with random weights all the same: `--allow-missing-weights`.",
    )


def _vocabulary_size(model: Any) -> int | None:
    try:
        return int(model.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError, TypeError):
        return None


def from_live_model(
    spec: PipelineSpec | None,
    model: Any,
    given: Mapping[str, Any],
    options: LoadOptions,
    pipeline_class: type[Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Assembled:
    """A pipeline around a model that is in memory; its components come from where it was loaded.

    Raises:
        UsageError: no transformers model.
        TaskError: no task given, and the model's class is for none.
    """
    if not hasattr(model, "config") or not callable(model):
        raise UsageError(
            f"A {type(model).__name__} is not a transformers model, so there is no pipeline for it.",
            hint="`convert(model, ..., sample_inputs=...)` takes any torch.nn.Module.",
        )
    notes: tuple[str, ...] = ()
    if spec is None:
        from onnxport.loading.task_detection import choose_task, identity_of_model

        choice = choose_task(identity_of_model(model))
        spec, notes = find_spec(choice.task.name), choice.notes
    origin = getattr(model.config, "_name_or_path", "") or getattr(model, "name_or_path", "")
    folder = Path(origin) if origin and Path(origin).is_dir() else None
    cls = pipeline_class or spec.load_class()
    components = load_components(folder, cls, dict(given), trust_remote_code=options.trust_remote_code)
    if hasattr(model, "eval"):
        model.eval()
    pipeline = make_pipeline(spec, model, components, cls, options.device, arguments)
    return finish(pipeline, spec, notes=(*notes, *components.notes))
