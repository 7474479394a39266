"""Inputs of models that look for texts in images, such as OWL-ViT: every image has the same number of texts."""

from __future__ import annotations

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes
from onnxport.dummy_inputs.image import ImageInputGenerator
from onnxport.dummy_inputs.text import TextInputGenerator

_TEXTS = "text_batch_size"


class QueryInputGenerator:
    """Makes (images * queries, tokens) texts, those of the first image first, followed by the images.

    Args:
        text: makes the texts.
        image: makes the images.
    """

    def __init__(self, text: TextInputGenerator, image: ImageInputGenerator) -> None:
        self.text, self.image = text, image
        lengths = tuple(dim for dim in text.dims if dim.name != text.batch)
        self.dims = (DynamicDim("num_queries", 3, (4, 2)), *lengths, *image.dims)
        self.joint_axes = {(name, 0): _TEXTS for name in ("input_ids", "attention_mask", "token_type_ids")}
        self.can_pad = text.can_pad or image.can_pad
        self.processor_size = image.processor_size

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        rows = {self.text.batch: sizes[self.image.batch] * sizes["num_queries"]}
        return {
            **self.text.make(sizes | rows, seed=seed, padded=padded and self.text.can_pad),
            **self.image.make(sizes, seed=seed, padded=padded and self.image.can_pad),
        }
