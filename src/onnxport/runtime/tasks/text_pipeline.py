"""What the pipelines of texts have in common: the folder's tokenizer."""

from __future__ import annotations

from typing import Any

from onnxport.runtime.preprocessing.texts import TextEncoder
from onnxport.runtime.tasks.base import TaskPipeline
from onnxport.runtime.tasks.model import Padding, TaskModel


class TextPipeline(TaskPipeline):
    """A pipeline with a tokenizer.

    Attributes:
        texts: the folder's tokenizer.

    Raises:
        FolderError: the folder has no tokenizer.json.
    """

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        self.texts = TextEncoder(model.folder.path)
        super().__init__(model, task, **settings)

    def padding(self) -> Padding:
        return Padding(self.texts.padding(), self.texts.side)
