"""The distance of every pixel of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxport.errors import UnknownPreprocessingError
from onnxport.runtime.preprocessing.images.interpolation import interpolate
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.image_pipeline import ImagePipeline, ImageSettings
from onnxport.runtime.tasks.model import TaskModel

_PROCESSORS = ("DPTImageProcessor", "GLPNImageProcessor")


class DepthEstimation(ImagePipeline):
    """`pipeline("photo.png")` returns {"predicted_depth": array, "depth": PIL image}.

    `predicted_depth` is (height, width) float32 at the size of the image, in the model's unit. `depth` shows it, from 0
    to 255.

    Raises:
        UnknownPreprocessingError: the depths of this image processor's class are read by transformers only.
    """

    Settings = ImageSettings

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        super().__init__(model, task, **settings)
        if self.images.name not in _PROCESSORS:
            raise UnknownPreprocessingError(f"Depth estimation with {self.images.name}")

    def answer(self, outputs: Sequence[Row], context: Any, settings: Any) -> dict[str, Any]:
        from PIL import Image

        depth = interpolate(outputs[0]["predicted_depth"], context, "bicubic")
        span = depth.max() - depth.min()
        shown = (depth - depth.min()) / span if span else np.zeros_like(depth)
        return {"predicted_depth": depth, "depth": Image.fromarray((shown * 255).astype(np.uint8))}
