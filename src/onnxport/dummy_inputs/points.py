"""Inputs of a decoder of masks: what an encoder made of images, and points on and beside objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes, base_sizes
from onnxport.dummy_inputs.image import ImageInputGenerator
from onnxport.runtime.prompts.points import LABELS, NO_POINT, PIXELS, POINTS, POSITIONS
from onnxport.sources.base import Source

_LABELS = (1, 0, -1, NO_POINT)


class PreparedImageGenerator(ImageInputGenerator):
    """Makes rows of images of the one size that the processor gives: maps and points are on its grid.

    Args:
        processor: the image processor, or None for random pixels.
        config: config of the model.
    """

    def __init__(self, processor: Any, config: Any) -> None:
        super().__init__(processor, config, frozenset({PIXELS}))
        rows, *sides = self.dims
        why = "points are in pixels of an image of this size"
        self.dims = (rows, *(replace(side, probe_sizes=(), why_static=why) for side in sides))


class PointInputGenerator:
    """Makes points in pixels of the prepared image, and maps that are near those of real images.

    Args:
        images: makes the encoder's inputs.
        encoder: gives the maps.
    """

    can_pad = False
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, images: ImageInputGenerator, encoder: Source) -> None:
        self.images = images
        # One image: encoders of masks read images of a thousand pixels a side.
        self.first = images.make({**base_sizes(images), images.batch: 1})
        self.maps = encoder.run(self.first)
        self.dims: tuple[DynamicDim, ...] = (
            DynamicDim(images.batch, 2, (3, 5)),
            DynamicDim("point_batch_size", 3, (2, 5), edge_sizes=(1,)),
            DynamicDim("nb_points_per_image", 2, (3, 5), edge_sizes=(1,)),
        )

    def whole(self) -> Arrays:
        """Return inputs of the model before it is taken apart: the pixels that `maps` were made of, and points."""
        made = self.make({**base_sizes(self), self.images.batch: 1})
        return {PIXELS: self.first[PIXELS], **{name: made[name] for name in (POINTS, LABELS)}}

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        rows, objects, points = (sizes[dim.name] for dim in self.dims)
        rng = np.random.default_rng([seed, rows, objects, points])
        arrays: Arrays = {}
        for name, known in self.maps.items():
            maps = known[np.arange(rows) % len(known)]
            if name != POSITIONS:  # the same for every image
                maps = maps + rng.standard_normal(maps.shape) * known.std() / 2
            arrays[name] = np.ascontiguousarray(maps, np.float32)
        height, width = self.first[PIXELS].shape[-2:]
        places = rng.random((rows, objects, points, 2)) * [width, height]
        labels = rng.choice(_LABELS, (rows, objects, points), p=(0.5, 0.2, 0.1, 0.2))
        labels[:, :, 0] = 1
        return {**arrays, POINTS: places.astype(np.float32), LABELS: labels.astype(np.int64)}
