"""Boxes and labels in images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UnknownPreprocessingError
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.image_pipeline import ImagePipeline, ImageSettings
from onnxport.runtime.tasks.model import TaskModel
from onnxport.runtime.tasks.scores import sigmoid, softmax

Floats = NDArray[np.float32]
_MOST = 100  # of the classes that take the best pairs of query and label
CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DETECTORS = ("Detr", "ConditionalDetr", "DeformableDetr", "Yolos", "RTDetr")


@dataclass(frozen=True)
class BoxSettings(ImageSettings):
    """Arguments of the call.

    Attributes:
        threshold: the score above which a box counts.
    """

    threshold: float = 0.5


class ObjectDetection(ImagePipeline):
    """`pipeline("photo.png")` returns [{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}].

    Boxes are in pixels of the image. Settings are those of `BoxSettings`.

    Raises:
        UnknownPreprocessingError: the image processor's class has no detections that are read here.
    """

    Settings = BoxSettings

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        super().__init__(model, task, **settings)
        if self.images.name.removesuffix("ImageProcessor") not in _DETECTORS:
            raise UnknownPreprocessingError(f"Object detection with {self.images.name}")

    def answer(self, outputs: Sequence[Row], context: Any, settings: BoxSettings) -> list[dict[str, Any]]:
        logits, boxes = (outputs[0][name].astype(np.float32) for name in ("logits", "pred_boxes"))
        scores, labels, queries = _best(logits, self.images.kind.boxes)
        height, width = context
        sides = corners(boxes) * np.array([width, height, width, height], np.float32)
        return [
            {
                "score": float(score),
                "label": self.model.config.label(int(label)),
                "box": dict(zip(CORNERS, (int(number) for number in sides[query]), strict=True)),
            }
            for score, label, query in zip(scores, labels, queries, strict=True)
            if score > settings.threshold
        ]


def _best(logits: Floats, how: str) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
    """Scores, labels and queries of the candidates."""
    if how == "softmax":  # the last class is "no object"
        scores = softmax(logits)[:, :-1]
        return scores.max(-1), scores.argmax(-1), np.arange(len(scores))
    flat = sigmoid(logits).reshape(-1)
    count = min(_MOST, flat.size) if how == "top 100" else len(logits)
    best = np.argsort(-flat, kind="stable")[:count]
    return flat[best], best % logits.shape[1], best // logits.shape[1]


def corners(boxes: Floats) -> Floats:
    """Left, top, right and bottom of boxes with center, width and height."""
    x, y, width, height = np.moveaxis(boxes, -1, 0)
    half = np.float32(0.5)
    return np.stack([x - half * width, y - half * height, x + half * width, y + half * height], -1)
