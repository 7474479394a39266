"""One part of a model (the source and the inputs of one graph), and what loading wrote on the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.dummy_inputs import InputGenerator
from onnxport.tasks import Task, find_task

if TYPE_CHECKING:
    from onnxport.sources.base import Source


def task_of(pipeline: Any) -> Task:
    """The row of a pipeline's task.

    Raises:
        TaskError: the pipeline's task is not in the table.
    """
    return find_task(pipeline.task)


@dataclass(frozen=True)
class Part:
    """One graph of the result: its source, and the generator of its inputs.

    Attributes:
        name: of the component in the folder.
        decision: what a user sees in its outputs (`Task.decision`).
    """

    name: str
    source: Source
    generator: InputGenerator
    decision: str | None = None


def record_loading(
    pipeline: Any,
    task: str,
    missing_weights: tuple[str, ...] = (),
    dropped_outputs: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Any:
    """Write on a pipeline what later steps must know: `convert_pytorch(pipeline)` gets nothing else. Returns it.

    Args:
        task: its canonical name.
        missing_weights: parameters that the checkpoint lacks. They are random, and either allowed or without influence
            on the outputs that are kept.
        dropped_outputs: outputs that depend on those; they must not be exported.
        notes: what a user should know.
    """
    pipeline.task = task
    pipeline.missing_weights, pipeline.dropped_outputs, pipeline.notes = missing_weights, dropped_outputs, notes
    return pipeline


def exported_outputs(pipeline: Any) -> tuple[str, ...]:
    """Names of the outputs that the graph gets: those of the task, without the dropped ones."""
    dropped = getattr(pipeline, "dropped_outputs", ())
    return tuple(name for name in task_of(pipeline).outputs if name not in dropped)


def is_encoder_decoder(model: Any) -> bool:
    """Whether it generates with a decoder that attends to an encoder's states."""
    return bool(getattr(model.config, "is_encoder_decoder", False)) and model.can_generate()
