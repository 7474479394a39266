"""Masks and labels in images: a class for every pixel, instances, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UnknownPreprocessingError, UsageError
from onnxport.runtime.preprocessing.images.interpolation import interpolate
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.image_pipeline import ImagePipeline, ImageSettings
from onnxport.runtime.tasks.model import TaskModel
from onnxport.runtime.tasks.scores import sigmoid, softmax

Floats = NDArray[np.float32]
_SUBTASKS = ("panoptic", "instance", "semantic")
_AT_384 = (384, 384)
_MAPS = ("Beit", "DPT", "MobileNetV2", "MobileViT", "Segformer")
_NAMES = (("class_queries_logits", "masks_queries_logits"), ("logits", "pred_masks"))


@dataclass(frozen=True)
class SegmentSettings(ImageSettings):
    """Arguments of the call.

    Attributes:
        subtask: "panoptic", "instance" or "semantic"; None takes the first that the model serves.
        threshold: the score above which a mask counts.
        mask_threshold: the score from which on a pixel belongs to a mask.
        overlap_mask_area_threshold: the share of a mask that must remain beside the others.
    """

    subtask: str | None = None
    threshold: float = 0.9
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.5


@dataclass(frozen=True)
class Segment:
    """One mask, (height, width) bool, with its class; the score is None for a class map."""

    label: int
    mask: NDArray[np.bool_]
    score: float | None = None


class ImageSegmentation(ImagePipeline):
    """`pipeline("photo.png")` returns [{"score": float or None, "label": str, "mask": PIL image}].

    A mask is 255 where the label is, at the size of the image. Settings are those of `SegmentSettings`.

    Raises:
        UnknownPreprocessingError: the image processor's class has no masks that are read here.
    """

    Settings = SegmentSettings

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        if task == "semantic-segmentation":
            settings = {"subtask": "semantic", **settings}
        super().__init__(model, task, **settings)
        name = self.images.name.removesuffix("ImageProcessor")
        if self.images.kind.segments == "map" and name not in _MAPS:
            raise UnknownPreprocessingError(f"Image segmentation with {self.images.name}")

    def answer(self, outputs: Sequence[Row], context: Any, settings: SegmentSettings) -> list[dict[str, Any]]:
        from PIL import Image

        return [
            {
                "score": segment.score,
                "label": self.model.config.label(segment.label),
                "mask": Image.fromarray(segment.mask.astype(np.uint8) * 255, mode="L"),
            }
            for segment in self._segments(outputs[0], context, settings)
        ]

    def _segments(self, output: Row, size: tuple[int, int], settings: SegmentSettings) -> list[Segment]:
        if settings.subtask not in (None, *_SUBTASKS):
            raise UsageError(f"subtask={settings.subtask!r} is not known.", hint=f"Use {', '.join(_SUBTASKS)}.")
        if self.images.kind.segments == "map":
            if settings.subtask not in (None, "semantic"):
                raise UsageError(f"The model gives no {settings.subtask} segments.", hint='subtask="semantic"')
            return _classes(interpolate(output["logits"], size, "bilinear"))
        names = next(names for names in _NAMES if names[0] in output)
        classes, masks = (output[name].astype(np.float32) for name in names)
        if self.images.kind.segments == "384":
            masks = interpolate(masks, _AT_384, "bilinear")
        if settings.subtask == "semantic":
            scores = np.einsum("qc,qhw->chw", softmax(classes)[:, :-1], sigmoid(masks))
            return _classes(interpolate(scores, size, "bilinear"))
        # DETR's masks are made into instances as into panoptic segments.
        if settings.subtask == "instance" and self.images.name.startswith("Mask"):
            return _instances(classes, masks, size, settings)
        return _panoptic(classes, masks, size, settings)


def _classes(scores: Floats) -> list[Segment]:
    """A segment for each class of a map, (classes, height, width)."""
    best = scores.argmax(0)
    return [Segment(int(label), best == label) for label in np.unique(best)]


def _panoptic(classes: Floats, masks: Floats, size: tuple[int, int], settings: SegmentSettings) -> list[Segment]:
    """Segments that do not overlap: every pixel goes to the mask with the best score there."""
    scores = softmax(classes)
    best, labels = scores.max(-1), scores.argmax(-1)
    kept = (labels != classes.shape[-1] - 1) & (best > settings.threshold)
    if not kept.any():
        return []
    weighted = interpolate(sigmoid(masks[kept]), size, "bilinear") * best[kept][:, None, None]
    owner = weighted.argmax(0)
    found = []
    for number, (label, score) in enumerate(zip(labels[kept], best[kept], strict=True)):
        mask, whole = owner == number, int((weighted[number] >= settings.mask_threshold).sum())
        if mask.any() and whole and mask.sum() / whole > settings.overlap_mask_area_threshold:
            found.append(Segment(int(label), mask, round(float(score), 6)))
    return found


def _instances(classes: Floats, masks: Floats, size: tuple[int, int], settings: SegmentSettings) -> list[Segment]:
    """The best pairs of query and class; of masks that overlap, the later ones lie on top."""
    scores = softmax(classes)[:, :-1]
    best = np.argsort(-scores.reshape(-1), kind="stable")[: len(classes)]
    owner = np.full(size, -1)
    found: list[tuple[int, float]] = []
    for place in best:
        query, label = divmod(int(place), scores.shape[1])
        inside = (masks[query] > 0).astype(np.float32)
        share = (sigmoid(masks[query]) * inside).sum() / (inside.sum() + np.float32(1e-6))
        score = float(scores[query, label] * share)
        mask = interpolate(inside, size, "nearest") == 1
        if mask.any() and score >= settings.threshold:
            owner[mask] = len(found)
            found.append((label, round(score, 6)))
    return [Segment(label, owner == number, score) for number, (label, score) in enumerate(found)]
