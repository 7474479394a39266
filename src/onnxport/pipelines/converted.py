"""The pipeline of a converted folder: without a framework, or where that cannot be, with transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.errors import UnknownPreprocessingError
from onnxport.loading.options import LoadOptions
from onnxport.runtime.execution import running_on
from onnxport.system.requirements import is_installed


def open_converted(
    folder: Folder, task: str | None = None, options: LoadOptions | None = None, component: str = "model"
) -> Any:
    """A pipeline that runs a converted folder on ONNX Runtime.

    transformers and torch are imported only if the inputs are prepared by a class that the run time does not have, or
    if the caller gives components or a pipeline class of transformers.

    Args:
        folder: the folder.
        task: its name; None for the task of the folder.
        options: components, and arguments of the pipeline; `provider` and `threads` are those of `open_pipeline`.
        component: name of the graph.

    Raises:
        FolderError: the folder is damaged.
        UsageError: a setting that the task does not have.
        UnknownPreprocessingError: transformers, which prepares the inputs, is not installed.
    """
    options = options or LoadOptions()
    arguments = dict(options.pipeline_arguments)
    where = {name: arguments.pop(name, None) for name in ("provider", "threads")}
    with running_on(**where):
        return _open(folder, task, replace(options, pipeline_arguments=arguments), component)


def _open(folder: Folder, task: str | None, options: LoadOptions, component: str) -> Any:
    if options.pipeline_class is None and not any(value is not None for value in options.components.values()):
        from onnxport.runtime.pipeline import open_pipeline

        try:
            return open_pipeline(folder, task, component, **dict(options.pipeline_arguments))
        except UnknownPreprocessingError:
            if not (is_installed("torch") and is_installed("transformers")):
                raise
    from onnxport.pipelines.onnx.pipeline import open_with_transformers

    return open_with_transformers(folder, task, options, component)
