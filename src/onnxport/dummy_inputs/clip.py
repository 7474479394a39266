"""Clips: a fixed number of frames, each an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxport.dummy_inputs.base import Arrays, Sizes, as_arrays
from onnxport.dummy_inputs.image import ImageInputGenerator, random_image

_NAMES = ("pixel_values", "pixel_values_videos")
_FRAMES = ("num_frames", "frames_per_clip")


def frames_of(config: Any) -> int:
    """Return how many frames a clip has.

    Args:
        config: config of the model.
    """
    return next((int(count) for name in _FRAMES if (count := getattr(config, name, None))), 8)


class ClipInputGenerator(ImageInputGenerator):
    """Makes rows of clips, (rows, frames, channels, height, width).

    Args:
        processor: the image processor of frames, or None for random pixels.
        config: config of the model; it says how many frames a clip has.
        accepts: parameter names of the model's forward, or None for all.
    """

    def __init__(self, processor: Any, config: Any, accepts: frozenset[str] | None = None) -> None:
        self.frames = frames_of(config)
        self.name = next((name for name in _NAMES if accepts and name in accepts), _NAMES[0])
        super().__init__(processor, config, accepts)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        rows, height, width = sizes[self.batch], sizes["height"], sizes["width"]
        rng = np.random.default_rng([seed, rows, height, width])
        if self.processor is None:
            channels = int(getattr(self.config, "num_channels", 3) or 3)
            shape = (rows, self.frames, channels, height, width)
            return {self.name: rng.standard_normal(shape, dtype=np.float32)}
        clips = [[random_image(height, width, rng) for _ in range(self.frames)] for _ in range(rows)]
        return as_arrays(self.processor(clips, return_tensors="np", **self._options()), self.accepts)

    def _find_processor_size(self) -> tuple[int, int]:
        if self.processor is None:
            return super()._find_processor_size()
        image = random_image(193, 161, np.random.default_rng(0))
        made = as_arrays(self.processor([[image] * self.frames], return_tensors="np"), self.accepts)
        height, width = made[self.name].shape[-2:]
        return int(height), int(width)
