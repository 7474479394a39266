"""Images: pixels of an exact size, normalized by the image processor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes, as_arrays

# Options that keep the size of the image.
_NO_RESIZING = {"do_resize": False, "do_center_crop": False, "do_rescale": True, "do_normalize": True}
_DEFAULT_SIZE = 160  # base size in pixels if the processor keeps the size of the image


class ImageInputGenerator:
    """Makes rows of images.

    Args:
        processor: the image processor, or None for random pixels.
        config: config of the model.
        accepts: parameter names of the model's forward, or None for all.
        batch: name of the batch axis.

    Attributes:
        processor_size: (height, width) that the processor makes of a user's image, in pixels.
    """

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(
        self, processor: Any, config: Any, accepts: frozenset[str] | None = None, batch: str = "batch_size"
    ) -> None:
        self.processor, self.config, self.accepts, self.batch = processor, config, accepts, batch
        self.can_pad = False
        self.processor_size = self._find_processor_size()
        height, width = self.processor_size
        self.dims: tuple[DynamicDim, ...] = (
            DynamicDim(batch, 2, (3, 5)),
            DynamicDim("height", height, _probe_sizes(height)),
            DynamicDim("width", width, _probe_sizes(width, first=2)),
        )

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        rows, height, width = sizes[self.batch], sizes["height"], sizes["width"]
        rng = np.random.default_rng([seed, rows, height, width])
        if self.processor is None:
            channels = int(getattr(self.config, "num_channels", 3) or 3)
            pixels = rng.standard_normal((rows, channels, height, width), dtype=np.float32)
            return {"pixel_values": pixels}
        images = [random_image(height, width, rng) for _ in range(rows)]
        if padded:
            images[1:] = [image.crop((0, 0, max(8, width * 3 // 4), max(8, height * 2 // 3))) for image in images[1:]]
        made = as_arrays(self.processor(images, return_tensors="np", **self._options()), self.accepts)
        if made["pixel_values"].shape[-2:] != (height, width) and hasattr(self.processor, "do_pad"):
            unpadded = {**self._options(), "do_pad": False}
            made = as_arrays(self.processor(images, return_tensors="np", **unpadded), self.accepts)
        return made

    def _options(self) -> dict[str, Any]:
        options = {name: value for name, value in _NO_RESIZING.items() if hasattr(self.processor, name)}
        if getattr(self.processor, "image_mean", None) is None:
            options.pop("do_normalize", None)
        return options

    def _find_processor_size(self) -> tuple[int, int]:
        """Return height and width that the processor makes; a default size if it keeps the size of the image."""
        if self.processor is None:
            return _config_size(self.config)
        rng = np.random.default_rng(0)
        shapes = []
        for height, width in ((193, 161), (161, 257)):
            arrays = as_arrays(self.processor([random_image(height, width, rng)], return_tensors="np"), self.accepts)
            shapes.append(arrays["pixel_values"].shape[-2:])
        self.can_pad = "pixel_mask" in arrays
        if shapes[0] == shapes[1]:
            return int(shapes[0][0]), int(shapes[0][1])
        return _DEFAULT_SIZE, _DEFAULT_SIZE + 32


def random_image(height: int, width: int, rng: np.random.Generator) -> Any:
    """Return a PIL image of smooth colour blobs and noise: it has edges and flat areas, as photographs do.

    Args:
        height: in pixels.
        width: in pixels.
        rng: random generator.
    """
    from PIL import Image

    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    noise = rng.integers(-24, 25, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse, np.int64) + noise, 0, 255).astype(np.uint8))


def _probe_sizes(size: int, first: int = 1) -> tuple[int, ...]:
    """Return sizes to probe besides `size`: odd ones, then multiples of usual strides and patch sizes.

    They start at 96: a model that halves the image five times must be left with more than one cell, or a trace takes
    the path for a single cell.
    """
    start = size * -(-96 // size)
    odd = (start + 7 + 2 * first, 2 * start + 13 + 2 * first)
    even = tuple(start + step * first for step in (8, 14, 16, 32, 64))
    return tuple(dict.fromkeys((*odd, *even, start * 2, start * 3)))


def _config_size(config: Any) -> tuple[int, int]:
    vision = getattr(config, "vision_config", None) or config
    size = getattr(vision, "image_size", None) or 224
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[-1])
    return int(size), int(size)
