"""From a pipeline to its source and sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxport.errors import UsageError
from onnxport.samples import Sampler, sampler_for
from onnxport.tasks import Task, find_task

if TYPE_CHECKING:
    from onnxport.sources.pytorch import TorchSource


def task_of(nlp: Any) -> Task:
    """The row of a pipeline's task.

    Raises:
        TaskError: the pipeline's task is not in the table.
    """
    return find_task(nlp.task)


def source_of(nlp: Any, framework: str) -> TorchSource:
    """The model of a pipeline, with the outputs that its task wants.

    Raises:
        UsageError: the framework is not "pt".
    """
    if framework != "pt":
        raise UsageError(f"Framework {framework!r} has no source here; 'pt' has.")
    from onnxport.sources.decoder import DecoderSource
    from onnxport.sources.pytorch import TorchSource

    kind = DecoderSource if task_of(nlp).kind == "decoder" else TorchSource
    dropped = getattr(nlp, "dropped_outputs", ())
    outputs = tuple(name for name in task_of(nlp).outputs if name not in dropped)
    return kind(nlp.model, outputs, getattr(nlp.model, "architecture", None))


def sampler_of(nlp: Any, source: TorchSource) -> Sampler:
    return sampler_for(nlp, task_of(nlp), source.accepts(), getattr(source, "states", ()))
