"""Inputs of models that take texts and images separately, such as CLIP: two independent batch axes."""

from __future__ import annotations

from typing import ClassVar

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes
from onnxport.dummy_inputs.image import ImageInputGenerator
from onnxport.dummy_inputs.text import TextInputGenerator


class JointInputGenerator:
    """Makes the inputs of a text generator, followed by those of an image generator.

    Args:
        text: makes the texts.
        image: makes the images.
    """

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, text: TextInputGenerator, image: ImageInputGenerator) -> None:
        self.text, self.image = text, image
        # Different base sizes show which of the two batch axes an output axis follows.
        rows = {text.batch: 3, image.batch: 2}
        self.dims = tuple(
            DynamicDim(
                k.name,
                rows.get(k.name, k.base_size),
                tuple(o + rows[k.name] for o in (2, 4)),
                k.maximum,
                k.derived_axis,
            )
            if k.name in rows
            else k
            for k in (*text.dims, *image.dims)
        )
        self.can_pad = text.can_pad or image.can_pad
        self.processor_size = image.processor_size

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        return {
            **self.text.make(sizes, seed=seed, padded=padded and self.text.can_pad),
            **self.image.make(sizes, seed=seed, padded=padded and self.image.can_pad),
        }
