"""An image made from an image: super-resolution and restoration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxport.errors import UnknownPreprocessingError
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.image_pipeline import ImagePipeline
from onnxport.runtime.tasks.model import TaskModel

_PROCESSORS = ("Swin2SRImageProcessor",)


class ImageToImage(ImagePipeline):
    """`pipeline("photo.png")` returns a PIL image, larger by the model's factor.

    Raises:
        UnknownPreprocessingError: what the model makes is read by transformers only.
    """

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        super().__init__(model, task, **settings)
        if self.images.name not in _PROCESSORS:
            raise UnknownPreprocessingError(f"Images made with {self.images.name}")

    def answer(self, outputs: Sequence[Row], context: Any, settings: Any) -> Any:
        from PIL import Image

        # The processor pads to a multiple of the window; what comes of the padding is cut off.
        scale = int(self.model.config.values.get("upscale", 1))
        height, width = (int(length) * scale for length in context)
        pixels = np.asarray(outputs[0]["reconstruction"], np.float32)[:, :height, :width].clip(0, 1)
        return Image.fromarray((pixels * 255).round().astype(np.uint8).transpose(1, 2, 0))
