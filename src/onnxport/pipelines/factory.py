"""Pipelines by task name: transformers' own, and those that it dropped or never had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import MANIFEST_NAME
from onnxport.errors import UsageError
from onnxport.loading.load import AUTO, load_pipeline
from onnxport.loading.options import load_options
from onnxport.loading.registry import find_spec
from onnxport.loading.resolve import check_framework, resolve_model
from onnxport.pipelines.converted import open_converted
from onnxport.system.requirements import require_pytorch

# Of the keyword arguments: those for loading. The rest goes to the pipeline class.
_FOR_LOADING = ("processor", "dtype", "allow_pickle", "allow_missing_weights")


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
        tokenizer: a live object, or a folder; the model's by default.
        feature_extractor: likewise.
        image_processor: likewise.
        framework: "pt", "tf", or None: found from the checkpoint.
        revision: of a model of the hub.
        token: for a private model of the hub.
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
    check_framework(framework)
    named = {
        "config": config, "tokenizer": tokenizer, "feature_extractor": feature_extractor,
        "image_processor": image_processor, "revision": revision, "token": token, "device": device,
        "device_map": device_map, "torch_dtype": torch_dtype, "trust_remote_code": bool(trust_remote_code),
    }  # fmt: skip
    for_loading = {name: kwargs.pop(name) for name in _FOR_LOADING if name in kwargs}
    given = {name: value for name, value in (named | for_loading).items() if value is not None}
    options = replace(
        load_options({**(model_kwargs or {}), **given}), pipeline_class=pipeline_class, pipeline_arguments=kwargs
    )
    if model is None:
        model = _usual_model(task)
    if isinstance(model, (str, Path)) and (Path(model).expanduser() / MANIFEST_NAME).is_file():
        model = open_folder(model)
    if isinstance(model, Folder):
        return open_converted(model, None if task == AUTO else task, options)
    resolved = resolve_model(model, framework, options)
    return load_pipeline(resolved, task or AUTO, options).pipeline


def _usual_model(task: str | None) -> str:
    """The model of the hub that is taken for a task where none was named.

    Raises:
        UsageError: there is none.
    """
    if task in (None, AUTO):
        raise UsageError("Neither a task nor a model was given.", hint="pipeline(task, model=...)")
    require_pytorch()
    spec = find_spec(str(task))
    if spec.default_model is None:
        raise UsageError(f"There is no usual model for {spec.task}.", hint="Give one: pipeline(task, model=...)")
    return spec.default_model
