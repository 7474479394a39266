"""An image made from an image: super-resolution and restoration."""

from __future__ import annotations

from typing import Any

from transformers import Pipeline
from transformers.image_utils import load_image


class ImageToImagePipeline(Pipeline):
    """`pipeline(image)` gives a PIL image; an image is a path, an address or a PIL image."""

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(
        self, timeout: float | None = None, **_: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {} if timeout is None else {"timeout": timeout}, {}, {}

    def preprocess(self, image: Any, timeout: float | None = None) -> dict[str, Any]:
        picture = load_image(image, timeout=timeout)
        encoded = self.image_processor(images=[picture], return_tensors="pt").to(self.dtype)
        return {"pixel_values": encoded["pixel_values"], "size": (picture.height, picture.width)}

    def _forward(self, model_inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        outputs = self.model(pixel_values=model_inputs["pixel_values"])
        return {"reconstruction": outputs["reconstruction"], "size": model_inputs["size"]}

    def postprocess(self, model_outputs: dict[str, Any], **_: Any) -> Any:
        from PIL import Image

        # The processor pads to a multiple of the window; what comes of the padding is cut off.
        scale = getattr(self.model.config, "upscale", 1)
        height, width = (int(length) * scale for length in model_outputs["size"])
        pixels = model_outputs["reconstruction"][0, :, :height, :width].float().clamp(0, 1)
        return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
