"""One part of a model: the source and the inputs of one graph."""

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
    """A graph to be: a source, and what makes its inputs.

    Attributes:
        name: of the component in the folder.
        decision: what a user sees in its outputs (`Task.decision`).
    """

    name: str
    source: Source
    generator: InputGenerator
    decision: str | None = None


def is_encoder_decoder(model: Any) -> bool:
    """Whether it writes an answer with a decoder that looks at what an encoder made of the input."""
    return bool(getattr(model.config, "is_encoder_decoder", False)) and model.can_generate()
