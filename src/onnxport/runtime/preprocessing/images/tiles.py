"""An image as tiles: Idefics 3 and SmolVLM.

Source: models/idefics3/image_processing_pil_idefics3.py of transformers 5.23. Images are (height, width, channels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.errors import FolderError
from onnxport.runtime.preprocessing.images.processor import ImageProcessor, Pixels, as_pixels, channels_first
from onnxport.runtime.preprocessing.images.sizes import Size

_LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Tiles:
    """One image in tiles.

    Attributes:
        pixels: (tiles, channels, height, width) float32, row by row; the last one is the whole image, smaller.
        rows, columns: of tiles beside the whole image; 0 and 0 if there is the whole image alone.
    """

    pixels: Pixels
    rows: int
    columns: int


def tiles_of(images: ImageProcessor, image: Any) -> Tiles:
    """The tiles of an image.

    Args:
        images: of the rule "tiles".
        image: an RGB PIL image, or an array.

    Raises:
        FolderError: settings without `longest_edge`.
        UsageError: an array that is not an image.
    """
    side = _longest(images, "max_image_size")
    pixels = as_pixels(image)
    if images.settings.get("do_resize"):
        size = images.size()
        target = _with_longest_edge(pixels.shape[:2], size["longest_edge"]) if "longest_edge" in size else None
        pixels = images.resized(pixels, target or (size["height"], size["width"]))
    rows = columns = 0
    made = []
    if images.settings.get("do_image_splitting"):
        pixels = images.resized(pixels, _multiples(pixels.shape[:2], side))
        if max(pixels.shape[:2]) > side:
            rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
            places = np.ndindex(rows, columns)
            made = [pixels[r * side : (r + 1) * side, c * side : (c + 1) * side] for r, c in places]
    whole = pixels if pixels.shape[:2] == (side, side) and not made else images.resized(pixels, (side, side))
    return Tiles(np.stack([channels_first(images.finished(one)) for one in (*made, whole)]), rows, columns)


def _with_longest_edge(image: Size, edge: int) -> Size:
    """The longer side is `edge`, the other one is even, and none is above the largest that the class takes."""
    height, width = image
    ratio = width / height
    if width >= height:
        height, width = int(edge / ratio), edge
        height += height % 2
    else:
        height, width = edge, int(edge * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if width >= height and width > _LARGEST:
        height, width = int(_LARGEST / ratio), _LARGEST
    elif height > width and height > _LARGEST:
        height, width = _LARGEST, int(_LARGEST * ratio)
    return max(height, 1), max(width, 1)


def _multiples(image: Size, side: int) -> Size:
    """Both sides are multiples of the side of a tile; the shorter one follows the longer one."""
    height, width = image
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        return math.ceil(int(width / ratio) / side) * side, width
    height = math.ceil(height / side) * side
    return height, math.ceil(int(height * ratio) / side) * side


def _longest(images: ImageProcessor, name: str) -> int:
    found = images.size(name).get("longest_edge")
    if not found:
        raise FolderError(f"{name} of {images.name} has no longest_edge.", hint="Convert the model again.")
    return found
