"""Images beside texts (CLIP and its kin): two independent row axes."""

from __future__ import annotations

from typing import ClassVar

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes
from onnxport.dummy_inputs.image import ImageInputGenerator
from onnxport.dummy_inputs.text import TextInputGenerator


class JointInputGenerator:
    """The inputs of a text sampler, then those of an image sampler."""

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, text: TextInputGenerator, image: ImageInputGenerator) -> None:
        self.text, self.image = text, image
        # Different base counts, so that an output says which of the two it follows.
        rows = {text.batch: 3, image.batch: 2}
        self.dims = tuple(
            DynamicDim(k.name, rows.get(k.name, k.base), tuple(o + rows[k.name] for o in (2, 4)), k.maximum, k.frames)
            if k.name in rows
            else k
            for k in (*text.dims, *image.dims)
        )
        self.can_pad = text.can_pad or image.can_pad
        self.native = image.native

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        return {
            **self.text.make(sizes, seed=seed, padded=padded and self.text.can_pad),
            **self.image.make(sizes, seed=seed, padded=padded and self.image.can_pad),
        }
