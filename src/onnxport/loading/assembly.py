"""From a task and a checkpoint, or a live model, to a pipeline object."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError
from onnxport.loading.components import Components, has_vocabulary, load_components
from onnxport.loading.missing_weights import judge_missing_weights
from onnxport.loading.options import LoadOptions
from onnxport.loading.padding import use_tokenizer_padding
from onnxport.loading.parts import record_loading
from onnxport.loading.registry import PipelineSpec
from onnxport.loading.unused_weights import judge_unused_weights
from onnxport.loading.weights import load_model, readable_errors


def assemble(spec: PipelineSpec, checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """Load a checkpoint into the pipeline of a task; the pipeline says what happened (`record_loading`).

    Raises:
        CheckpointError: something cannot be read; or parameters that matter are not in the checkpoint.
        TaskError: the family has no head for the task.
        MissingDependencyError: a library is not installed.
    """
    cls = options.pipeline_class or spec.load_class()
    options = with_own_tokenizer(checkpoint, options)
    if spec.task == "feature-extraction" and checkpoint.is_sentence_transformers:
        from onnxport.loading.encoder import TRUNCATED, load_encoder

        loaded, tokenizer_settings = load_encoder(checkpoint, options)
        options = replace(options, pipeline_arguments={**TRUNCATED, **options.pipeline_arguments})
    else:
        loaded, tokenizer_settings = load_model(checkpoint.model_folder, checkpoint, spec.auto, options), None
    folder: Path | None = checkpoint.model_folder
    given = options.components
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

    padding = use_tokenizer_padding(loaded.model, components.tokenizer)

    def depends() -> dict[str, bool] | None:
        from onnxport.loading.probe import outputs_that_depend

        kind = spec.row.kind if spec.row is not None else None
        return outputs_that_depend(loaded.model, loaded.missing, components, kind)

    dropped, notes = judge_missing_weights(
        loaded, checkpoint, spec.row or spec.task, depends, allowed=options.allow_missing_weights
    )
    unused, unused_notes = judge_unused_weights(loaded, checkpoint, allowed=options.allow_unused_weights)
    pipeline = make_pipeline(spec, loaded.model, components, cls, options)
    notes = (*checkpoint.notes, *loaded.notes, *components.notes, *padding, *notes, *unused_notes)
    pipeline = record_loading(pipeline, spec.task, loaded.missing, dropped, notes)
    pipeline.weight_origins, pipeline.unused_tensors = loaded.origins, unused
    pipeline.config_changed = bool(padding) or checkpoint.quantized is not None
    return pipeline


def with_own_tokenizer(checkpoint: Checkpoint, options: LoadOptions) -> LoadOptions:
    """Take the tokenizer that lies beside an adapter, where there is one and none was given."""
    adapter = checkpoint.adapter
    if adapter is None or options.components.get("tokenizer") is not None or not has_vocabulary(adapter.folder):
        return options
    return replace(options, components={**options.components, "tokenizer": adapter.folder})


def assemble_live(spec: PipelineSpec, model: Any, options: LoadOptions) -> Any:
    """A pipeline around a model that is in memory. Its components come from where it was loaded."""
    cls = options.pipeline_class or spec.load_class()
    components = load_components(
        origin_folder(model), cls, dict(options.components), trust_remote_code=options.trust_remote_code
    )
    if hasattr(model, "eval"):
        model.eval()
    return record_loading(make_pipeline(spec, model, components, cls, options), spec.task, notes=components.notes)


def origin_folder(model: Any) -> Path | None:
    """The folder that a live model was loaded from, if it is still there."""
    origin = getattr(model.config, "_name_or_path", "") or getattr(model, "name_or_path", "")
    return Path(origin) if origin and Path(origin).is_dir() else None


def make_pipeline(
    spec: PipelineSpec, model: Any, components: Components, pipeline_class: type[Any], options: LoadOptions
) -> Any:
    """Put a model and its components into a pipeline; into a BarePipeline where a component that it needs is missing.

    Raises:
        CheckpointError: the pipeline class refuses them (a tokenizer without a mask token, say).
    """
    settings: dict[str, Any] = {}
    if components.complete:
        settings = {**spec.defaults, **options.pipeline_arguments}
    else:
        from onnxport.loading.bare import BarePipeline

        _require_features(model, components)
        pipeline_class = BarePipeline
    if getattr(model, "hf_device_map", None) is None:
        # Left to itself, transformers moves a model to whatever accelerator there is.
        settings["device"] = model.device if options.device is None else options.device
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    with readable_errors(name):
        return pipeline_class(model=model, task=spec.task, **components.arguments(), **settings)


def _require_features(model: Any, components: Components) -> None:
    """A sound itself can be made up; what a feature extractor makes of one cannot.

    Raises:
        CheckpointError: the model reads features, and nothing makes them.
    """
    given = components.feature_extractor, getattr(components.processor, "feature_extractor", None)
    if getattr(model, "main_input_name", "") == "input_features" and given == (None, None):
        raise CheckpointError(
            f"The checkpoint has no feature extractor (preprocessor_config.json or processor_config.json), which makes "
            f"the input_features of {type(model).__name__} of a sound.",
            hint="Copy preprocessor_config.json of the model that it was trained from into the checkpoint.",
        )


def _vocabulary_size(model: Any) -> int | None:
    try:
        return int(model.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError, TypeError):
        return None
