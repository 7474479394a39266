"""Boxes of what texts name, in images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxport.errors import UnknownPreprocessingError, UsageError
from onnxport.runtime.preprocessing.texts import Row, TextEncoder, pad_row
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.image_pipeline import ImagePipeline, ImageSettings
from onnxport.runtime.tasks.model import TaskModel
from onnxport.runtime.tasks.object_detection import CORNERS, corners
from onnxport.runtime.tasks.scores import sigmoid

_PROCESSORS = ("OwlViTImageProcessor",)


@dataclass(frozen=True)
class QuerySettings(ImageSettings):
    """Arguments of the call.

    Attributes:
        candidate_labels: a list of labels, or one string with commas.
        threshold: the score above which a box counts.
        top_k: boxes of the answer; None for all.
    """

    candidate_labels: Sequence[str] | str = ()
    threshold: float = 0.1
    top_k: int | None = None


class TextDetection(ImagePipeline):
    """`pipeline("photo.png", candidate_labels=["a cat", "a dog"])` returns boxes of what the labels name, best first.

    The answer is [{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}], in pixels of the image. An input may
    also be {"image": ..., "candidate_labels": [...]}. Settings are those of `QuerySettings`. All labels run together.

    Raises:
        FolderError: the folder has no tokenizer.json.
        UnknownPreprocessingError: the image processor's class is not known here.
    """

    Settings = QuerySettings
    aliases: ClassVar[Mapping[str, str]] = {"text_queries": "candidate_labels"}

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        self.texts = TextEncoder(model.folder.path)
        super().__init__(model, task, **settings)
        if self.images.name not in _PROCESSORS:
            raise UnknownPreprocessingError(f"Detection with {self.images.name}")

    def __call__(
        self, inputs: Any = None, candidate_labels: Any = None, *, batch_size: int | None = None, **settings: Any
    ) -> Any:
        if candidate_labels is not None:
            settings["candidate_labels"] = candidate_labels
        return super().__call__(inputs, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: QuerySettings) -> Prepared:
        own = isinstance(item, Mapping)
        given = item.get("candidate_labels", settings.candidate_labels) if own else settings.candidate_labels
        labels = [one.strip() for one in given.split(",")] if isinstance(given, str) else list(given)
        if not labels:
            raise UsageError("There are no labels.", hint='candidate_labels=["a cat", "a dog"]')
        image = super().prepare(item.get("image") if own else item, settings)
        rows = [self.texts.text_row(label) for label in labels]
        longest = max(len(row["input_ids"]) for row in rows)
        padded = [pad_row(row, self.texts.padding(), longest, self.texts.side) for row in rows]
        texts = {name: np.stack([row[name] for row in padded]) for name in padded[0]}
        return Prepared([{name: array[None] for name, array in image.rows[0].items()} | texts], (labels, image.context))

    def run(self, rows: Sequence[Row], size: int) -> list[Row]:
        """Each image with its labels; the graph takes both as batches."""
        return [self.model.run_batch(row) for row in rows]

    def answer(self, outputs: Sequence[Row], context: Any, settings: QuerySettings) -> list[dict[str, Any]]:
        if settings.top_k is not None:
            at_least(settings.top_k, 1, "top_k")
        labels, (height, width) = context
        scores = sigmoid(outputs[0]["logits"][0].astype(np.float32))
        boxes = corners(outputs[0]["pred_boxes"][0].astype(np.float32))
        boxes = boxes * np.array([width, height, width, height], np.float32)
        found = [
            {
                "score": float(scores[place, number]),
                "label": label,
                "box": dict(zip(CORNERS, (int(side) for side in boxes[place]), strict=True)),
            }
            for number, label in enumerate(labels)
            for place in np.flatnonzero(scores[:, number] > settings.threshold)
        ]
        return sorted(found, key=lambda row: -row["score"])[: settings.top_k]
