"""An image as patches with a grid: Qwen2-VL and Qwen2.5-VL.

Source: models/qwen2_vl/image_processing_pil_qwen2_vl.py of transformers 5.23.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.images.processor import ImageProcessor, Pixels, as_pixels, channels_first
from onnxport.runtime.preprocessing.images.sizes import Size

_LONGEST_RATIO = 200


def patches_of(images: ImageProcessor, image: Any) -> tuple[Pixels, Pixels]:
    """The patches of an image, and its grid.

    Args:
        images: of the rule "patches".
        image: an RGB PIL image, or an array.

    Returns:
        (patches, numbers) float32, in which the patches of one row of features follow each other; and (3,) int64: one
        frame, rows, columns.

    Raises:
        UsageError: an array that is not an image, or one that is more than 200 times as long as wide.
    """
    patch, merge, frames = (int(images.settings[name]) for name in ("patch_size", "merge_size", "temporal_patch_size"))
    pixels = as_pixels(image)
    if images.settings.get("do_resize"):
        pixels = images.resized(pixels, _target(pixels.shape[:2], patch * merge, *_limits(images)))
    made = channels_first(images.finished(pixels))
    channels, rows, columns = len(made), made.shape[1] // patch, made.shape[2] // patch
    if rows % merge or columns % merge or made.shape[1:] != (rows * patch, columns * patch):
        raise UsageError(
            f"An image of {made.shape[1]} x {made.shape[2]} cannot be divided into patches of {patch * merge}.",
            hint="Give one whose height and width are multiples of that.",
        )
    blocks = made.reshape(channels, rows // merge, merge, patch, columns // merge, merge, patch)
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    blocks = np.broadcast_to(blocks, (*blocks.shape[:5], frames, patch, patch))  # a still image, as a video of it
    return blocks.reshape(rows * columns, -1), np.array([1, rows, columns], np.int64)


def _limits(images: ImageProcessor) -> tuple[int, int]:
    """The least and the most pixels of an image; older files have keys of their own for them."""
    size = images.size()
    least, most = (images.settings.get(name) for name in ("min_pixels", "max_pixels"))
    return int(least or size["shortest_edge"]), int(most or size["longest_edge"])


def _target(image: Size, factor: int, least: int, most: int) -> Size:
    """Multiples of `factor` with nearly the ratio of the image, and a number of pixels within the limits.

    Raises:
        UsageError: a ratio of more than 200.
    """
    height, width = image
    if max(image) / min(image) > _LONGEST_RATIO:
        raise UsageError(
            f"The image of {height} x {width} is more than {_LONGEST_RATIO} times as long as wide.",
            hint="Give a part of it.",
        )
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor * factor > most:
        scale = math.sqrt(height * width / most)
        rows, columns = (max(1, math.floor(side / scale / factor)) for side in image)
    elif rows * columns * factor * factor < least:
        scale = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(side * scale / factor) for side in image)
    return rows * factor, columns * factor
