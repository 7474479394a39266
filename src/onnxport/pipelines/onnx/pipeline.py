"""A converted folder in transformers' pipelines, for what the run time cannot prepare without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.loading.assembly import make_pipeline
from onnxport.loading.components import load_components
from onnxport.loading.options import LoadOptions
from onnxport.loading.parts import record_loading
from onnxport.loading.registry import find_spec
from onnxport.pipelines.onnx.load import load_onnx_model


def open_with_transformers(
    folder: Folder, task: str | None, options: LoadOptions | None = None, component: str = "model"
) -> Any:
    """Transformers' pipeline for a task, around the graph of a folder.

    Args:
        folder: the folder.
        task: its name; None for the task of the folder.
        options: components and arguments of the pipeline.
        component: name of the graph.

    Raises:
        FolderError: the folder is damaged.
        CheckpointError: a tokenizer or processor cannot be loaded.
    """
    options = options or LoadOptions()
    model = load_onnx_model(folder, component)
    spec = find_spec(task or model.manifest.task)
    cls = options.pipeline_class or spec.load_class()
    components = load_components(folder.path, cls, dict(options.components), trust_remote_code=False)
    if spec.task == "feature-extraction" and (folder.path / "modules.json").is_file():
        from onnxport.loading.encoder import TRUNCATED, tokenizer_settings

        # As `assemble` does for the checkpoint.
        options = replace(options, pipeline_arguments={**TRUNCATED, **options.pipeline_arguments})
        if components.tokenizer is not None:
            tokenizer_settings(folder.path, model.config).apply(components.tokenizer)
    pipeline = make_pipeline(spec, model, components, cls, options)
    return record_loading(pipeline, spec.task, notes=(*model.manifest.notes, *components.notes))
