"""An image as several images: the tiles of Idefics 3 and SmolVLM, and the crops of Gemma 3's pan and scan.

Sources: models/idefics3/image_processing_pil_idefics3.py and models/gemma3/image_processing_pil_gemma3.py of
transformers 5.23. Images here are (height, width, channels).
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


def crops_of(images: ImageProcessor, image: Any) -> Pixels:
    """The whole image and, of a long one with `do_pan_and_scan`, its parts: (1 + parts, channels, height, width).

    Raises:
        FolderError: a setting of pan and scan is missing.
        UsageError: an array that is not an image.
    """
    pixels = as_pixels(image)
    parts = _parts(pixels, images) if images.settings.get("do_pan_and_scan") else []
    return np.stack([images(one)["pixel_values"] for one in (pixels, *parts)])


def _parts(pixels: Pixels, images: ImageProcessor) -> list[Pixels]:
    smallest, most, ratio = (
        _number(images, f"pan_and_scan_{name}") for name in ("min_crop_size", "max_num_crops", "min_ratio_to_activate")
    )
    sides = pixels.shape[:2]
    long = 1 if sides[1] >= sides[0] else 0  # the axis along which it is cut
    longer, shorter = sides[long], sides[1 - long]
    if longer / shorter < ratio:
        return []
    count = min(math.floor(longer / smallest), math.floor(longer / shorter + 0.5))
    count = int(min(most, max(2, count)))
    length = math.ceil(longer / count)
    if min(length, shorter) < smallest:
        return []
    return [pixels.take(range(n * length, min((n + 1) * length, longer)), axis=long) for n in range(count)]


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


def _number(images: ImageProcessor, name: str) -> float:
    found = images.settings.get(name)
    if not isinstance(found, (int, float)) or found <= 0:
        raise FolderError(f"{images.name} has {name}={found!r}.", hint="Convert the model again.")
    return found
