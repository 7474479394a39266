"""Pipelines by task name: transformers' own, and those that it dropped or never had."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import MANIFEST_NAME
from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.errors import UsageError
from onnxport.loading.assembly import Assembled, assemble, finish, from_live_model, make_pipeline
from onnxport.loading.components import load_components
from onnxport.loading.framework import is_tensorflow
from onnxport.loading.options import LoadOptions
from onnxport.loading.registry import PipelineSpec, find_spec
from onnxport.system.requirements import require_pytorch
from onnxport.tasks import find_task


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    framework: str | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    torch_dtype: Any = None,
    trust_remote_code: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    pipeline_class: type[Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Build the pipeline of a task, as transformers' function of the same name.

    Covers the tasks of transformers 5 and those it dropped: question-answering, summarization,
    translation_xx_to_yy, text2text-generation, image-to-text, visual-question-answering,
    image-to-image; and next-sentence-prediction, multiple-choice and semantic-segmentation.

    Args:
        task: its name; None reads it from the model.
        model: a folder, a model of the hub, a live transformers model, or a folder that onnxport
            wrote, by its path or as `artifact.folder.Folder`: that one runs on ONNX Runtime.
        config: a transformers config, or a folder to read it from, instead of the model's.
        tokenizer, feature_extractor, image_processor: live objects or folders; the model's by default.
        framework: "pt", "tf", or None: found from the checkpoint.
        revision, token: for a model of the hub.
        use_fast: accepted for older callers; transformers 5 has only fast tokenizers.
        device: where to run; None leaves the model where it is (the CPU for one that is loaded).
        device_map: passed on to `from_pretrained`.
        torch_dtype: floating point type (also as `dtype`); None is float32, "auto" as stored.
        trust_remote_code: allow Python code from the checkpoint to run.
        model_kwargs: further arguments of `from_pretrained`.
        pipeline_class: a class to use instead of the task's.
        kwargs: `processor`, `dtype`, `allow_pickle`, `allow_missing_weights`; the rest goes to the pipeline.

    Raises:
        OnnxPortError: with what is wrong and how to go on.
    """
    if framework not in (None, "pt", "tf"):
        raise UsageError(f"Unknown framework {framework!r}.", hint="Use pt, tf, or leave it out.")
    if isinstance(model, (str, Path)) and (Path(model).expanduser() / MANIFEST_NAME).is_file():
        model = open_folder(model)
    if model is not None and not isinstance(model, Folder) and is_tensorflow(framework, model):
        from onnxport.loading.load import load

        settings = {**dict(model_kwargs or {}), **({"config": config} if config is not None else {}), **kwargs}
        return load(
            task or "auto", "tf", model, tokenizer, revision=revision, token=token, image_processor=image_processor,
            feature_extractor=feature_extractor, trust_remote_code=bool(trust_remote_code), **settings,
        ).pipeline  # fmt: skip
    require_pytorch()
    dtype = kwargs.pop("dtype", None)
    settings = dict(model_kwargs or {})
    if config is not None:
        settings["config"] = config
    if device_map is not None:
        settings["device_map"] = device_map
    options = LoadOptions(
        allow_missing_weights=bool(kwargs.pop("allow_missing_weights", False)),
        allow_pickle=bool(kwargs.pop("allow_pickle", False)),
        trust_remote_code=bool(trust_remote_code),
        dtype=dtype if dtype is not None else settings.pop("torch_dtype", settings.pop("dtype", torch_dtype)),
        device=device,
        model_kwargs=settings,
    )
    given = {
        "tokenizer": tokenizer,
        "feature_extractor": feature_extractor,
        "image_processor": image_processor,
        "processor": kwargs.pop("processor", None),
    }
    spec = find_spec(task) if task not in (None, "auto") else None
    if model is None:
        if spec is None:
            raise UsageError("Neither a task nor a model was given.", hint="pipeline(task, model=...)")
        if spec.default_model is None:
            raise UsageError(f"There is no usual model for {spec.task}.", hint="Give one: pipeline(task, model=...)")
        model = spec.default_model
    if isinstance(model, Folder):
        if find_task(spec.task if spec is not None and spec.row else model.manifest.task).kind == "decoder":
            from onnxport.pipelines.onnx.text_generation import ConvertedTextGeneration

            return ConvertedTextGeneration(model)
        return _from_converted(spec, model, given, options, pipeline_class, kwargs).pipeline
    if not isinstance(model, (str, Path)):
        return from_live_model(spec, model, given, options, pipeline_class, kwargs).pipeline
    checkpoint = inspect_checkpoint(
        model,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
        revision=revision,
        token=token,
    )
    from onnxport.loading.gguf import identified

    checkpoint = identified(checkpoint)
    if spec is None:
        from onnxport.loading.task_detection import choose_task, identity_of

        choice = choose_task(identity_of(checkpoint, trust_remote_code=options.trust_remote_code))
        spec = find_spec(choice.task.name)
    return assemble(spec, checkpoint, given, options, pipeline_class, kwargs).pipeline


def _from_converted(
    spec: PipelineSpec | None,
    folder: Folder,
    given: Mapping[str, Any],
    options: LoadOptions,
    pipeline_class: type[Any] | None,
    arguments: Mapping[str, Any],
) -> Assembled:
    """A pipeline that runs a converted folder on ONNX Runtime."""
    from onnxport.pipelines.onnx.load import load_onnx_model

    model = load_onnx_model(folder)
    if spec is None:
        spec = find_spec(model.manifest.task)
    cls = pipeline_class or spec.load_class()
    components = load_components(folder.path, cls, dict(given), trust_remote_code=False)
    pipeline = make_pipeline(spec, model, components, cls, options.device, arguments)
    return finish(pipeline, spec, notes=(*model.manifest.notes, *components.notes))
