"""Masks of what points mark in an image."""

from __future__ import annotations

from typing import Any

from transformers import MaskGenerationPipeline
from transformers.image_utils import load_image

from onnxport.runtime.prompts.points import LABELS, PIXELS, POINTS, as_objects


class PointMaskPipeline(MaskGenerationPipeline):
    """transformers' pipeline, which looks for all masks of an image; and with `input_points` those of marked objects.

    `pipeline(image, input_points=[[x, y]])` gives [{"score": float, "mask": PIL image}], the best mask of each object,
    as `runtime.tasks.mask_generation`.
    """

    def __call__(
        self, image: Any = None, *args: Any, input_points: Any = None, input_labels: Any = None, **kwargs: Any
    ) -> Any:
        if input_points is None:
            return super().__call__(image, *args, **kwargs)
        return self._marked(load_image(image), input_points, input_labels, **kwargs)

    def _marked(self, image: Any, points: Any, labels: Any, mask_threshold: float = 0.0) -> list[dict[str, Any]]:
        import torch
        from PIL import Image

        prepared = self.image_processor(images=image, return_tensors="pt")
        places, marks = as_objects(points, labels)
        original = prepared["original_sizes"]
        sizes = prepared.get("reshaped_input_sizes")
        height, width = (sizes if sizes is not None else [prepared[PIXELS].shape[-2:]])[0]
        scaled = torch.from_numpy(places) * torch.tensor([int(width) / image.width, int(height) / image.height])
        given = {POINTS: scaled[None].to(self.dtype), LABELS: torch.from_numpy(marks)[None]}
        with torch.no_grad():
            made = self.model(pixel_values=prepared[PIXELS].to(self.dtype), **given)
        more = () if sizes is None else (sizes,)
        masks = self.image_processor.post_process_masks(
            made["pred_masks"], original, *more, mask_threshold=mask_threshold
        )[0]
        best = made["iou_scores"][0].argmax(-1)
        return [
            {
                "score": float(made["iou_scores"][0, number, chosen]),
                "mask": Image.fromarray((masks[number, chosen].to(torch.uint8) * 255).numpy()),
            }
            for number, chosen in enumerate(best.tolist())
        ]
