"""Masks of what points mark in an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.artifact.folder import Folder
from onnxport.errors import UnknownPreprocessingError
from onnxport.runtime.graph_choice import choose_graphs
from onnxport.runtime.preprocessing.images.interpolation import interpolate
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.prompts.points import DECODER, LABELS, PIXELS, POINTS, VISION, as_objects
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.tasks.base import Prepared
from onnxport.runtime.tasks.image_pipeline import ImagePipeline, ImageSettings
from onnxport.runtime.tasks.model import TaskModel

_PROCESSORS = ("SamImageProcessor",)


@dataclass(frozen=True)
class PointSettings(ImageSettings):
    """Arguments of the call.

    Attributes:
        input_points: [[x, y], ...] in pixels of the image, on one object or beside it; or a list of such lists, one for
            each object.
        input_labels: for every point 1 (on the object) or 0 (beside it); None: all are on it.
        mask_threshold: the logit above which a pixel belongs to the object.
    """

    input_points: Sequence[Any] = ()
    input_labels: Sequence[Any] | None = None
    mask_threshold: float = 0.0


class MaskGeneration(ImagePipeline):
    """`pipeline("photo.png", input_points=[[320, 240]])` returns the best mask of each object.

    The answer is [{"score": float, "mask": PIL image of the size of the image, 255 on the object}]. An input may also
    be {"image": ..., "input_points": [...], "input_labels": [...]}. The image is read once for all objects. Settings
    are those of `PointSettings`.

    Raises:
        FolderError: the folder has not these graphs.
        UnknownPreprocessingError: the image processor's class is not known here.
    """

    Settings = PointSettings

    def __init__(self, folder: Folder, component: str, task: str, **settings: Any) -> None:
        vision, decoder = choose_graphs(folder.path, folder.names, (VISION, DECODER), component)
        super().__init__(TaskModel(folder, vision), task, **settings)
        self.decoder = TaskModel(folder, decoder)
        if self.images.name not in _PROCESSORS:
            raise UnknownPreprocessingError(f"Masks with {self.images.name}")

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return (self.model.session, self.decoder.session)

    def prepare(self, item: Any, settings: PointSettings) -> Prepared:
        given = item if isinstance(item, Mapping) else {"image": item}
        image = super().prepare(given.get("image"), settings)
        points, labels = as_objects(given.get(POINTS, settings.input_points), given.get(LABELS, settings.input_labels))
        size = self._prepared_size(image.context)
        scale = np.array([size[1] / image.context[1], size[0] / image.context[0]])
        row = {**image.rows[0], POINTS: (points * scale).astype(np.float32), LABELS: labels}
        return Prepared([row], (image.context, size))

    def run(self, rows: Sequence[Row], size: int) -> list[Row]:
        """The masks of each image; images share a batch of the first graph only if the call asks for it."""
        maps = self.model.run([{PIXELS: row[PIXELS]} for row in rows], self.padding(), size)
        prompts = [{**made, POINTS: row[POINTS], LABELS: row[LABELS]} for made, row in zip(maps, rows, strict=True)]
        return self.decoder.run(prompts, self.padding(), 1)

    def answer(self, outputs: Sequence[Row], context: Any, settings: PointSettings) -> list[dict[str, Any]]:
        from PIL import Image

        original, prepared = context
        height, width = self._padded_size(prepared)
        found = []
        for scores, masks in zip(outputs[0]["iou_scores"], outputs[0]["pred_masks"], strict=True):
            best = int(scores.argmax())
            logits = interpolate(masks[best].astype(np.float32), (height, width), "bilinear")
            logits = interpolate(logits[: prepared[0], : prepared[1]], original, "bilinear")
            shown = np.where(logits > settings.mask_threshold, 255, 0).astype(np.uint8)
            found.append({"score": float(scores[best]), "mask": Image.fromarray(shown)})
        return found

    def _prepared_size(self, image: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the image in the pixels that the graph gets."""
        return self.images.target(image) if self.images.settings.get("do_resize") else image

    def _padded_size(self, prepared: tuple[int, int]) -> tuple[int, int]:
        axes = self.model.inputs[PIXELS].axes[-2:]
        height, width = (axis if isinstance(axis, int) else side for axis, side in zip(axes, prepared, strict=True))
        return height, width


def takes_points(components: Sequence[str]) -> bool:
    """Whether a folder with these graphs makes masks from points."""
    return all(any(name.startswith(graph) for name in components) for graph in (VISION, DECODER))
