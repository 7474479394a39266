"""The size that an image is resized to: the rules of transformers' image processors.

Every function takes the size of an image, (height, width), and returns another. Sources: `image_transforms.py`,
`image_processing_backends.py` and `models/*/image_processing_*.py` of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnxport.errors import FolderError

Size = tuple[int, int]


def size_dict(size: Any, *, square: bool, longest: int | None = None) -> dict[str, int]:
    """A size of preprocessing_config.json as an object: older files have a number or a list.

    Args:
        size: a number, [height, width], or an object.
        square: a number is both sides, and not the shorter side.
        longest: `max_size` of older files, for a number that is the shorter side.
    """
    if isinstance(size, Mapping):
        return {str(name): int(value) for name, value in size.items() if value is not None}
    if isinstance(size, (list, tuple)):
        return {"height": int(size[0]), "width": int(size[1])}
    if square:
        return {"height": int(size), "width": int(size)}
    shortest = {"shortest_edge": int(size)}
    return shortest if longest is None else {**shortest, "longest_edge": longest}


def resized(image: Size, size: Mapping[str, int]) -> Size:
    """By the keys of `size`: height and width, the shortest edge, both edges, or the largest height and width.

    Raises:
        FolderError: other keys.
    """
    if size.get("shortest_edge") and size.get("longest_edge"):
        return with_edges(image, size["shortest_edge"], size["longest_edge"])
    if size.get("shortest_edge"):
        return with_shortest_edge(image, size["shortest_edge"])
    if size.get("max_height") and size.get("max_width"):
        scale = min(size["max_height"] / image[0], size["max_width"] / image[1])
        return int(image[0] * scale), int(image[1] * scale)
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    raise FolderError(f"preprocessor_config.json has the size {dict(size)}.", hint="Convert the model again.")


def with_shortest_edge(image: Size, edge: int) -> Size:
    """The shorter side is `edge`."""
    height, width = image
    longest = int(edge * max(image) / min(image))
    return (longest, edge) if width <= height else (edge, longest)


def with_longest_edge(image: Size, edge: int) -> Size:
    """The longer side is `edge`, and the other one is rounded to the nearest number (SAM)."""
    scale = edge * 1.0 / max(image)
    return int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)


def with_edges(image: Size, shortest: int, longest: int, multiple: int | None = None) -> Size:
    """The shorter side is `shortest`, unless the longer one would be above `longest`.

    Args:
        image: (height, width).
        shortest, longest: of the sides.
        multiple: both sides are rounded down to a multiple of it (YOLOS).
    """
    height, width = image
    exact: float | None = None
    if max(image) / min(image) * shortest > longest:
        exact = longest * float(min(image)) / float(max(image))
        shortest = round(exact)
    scale = shortest if exact is None else exact
    if min(image) == shortest and not (multiple and width < height):
        found = height, width
    elif width < height:
        found = int(scale * height / width), shortest
    else:
        found = shortest, int(scale * width / height)
    return found if multiple is None else (found[0] - found[0] % multiple, found[1] - found[1] % multiple)


def fitted_to_multiple(image: Size, size: Mapping[str, int], multiple: int, *, keep_ratio: bool) -> Size:
    """Height and width as multiples of a number, with the ratio of the image if `keep_ratio` (DPT)."""
    scales = [size["height"] / image[0], size["width"] / image[1]]
    if keep_ratio:
        # As little as possible.
        scales = [scales[1] if abs(1 - scales[1]) < abs(1 - scales[0]) else scales[0]] * 2
    height, width = (round(scale * side / multiple) * multiple for scale, side in zip(scales, image, strict=True))
    return height, width


def rounded_up(size: Size, multiple: int) -> Size:
    """Multiples of a number that are not below the size."""
    height, width = (math.ceil(side / multiple) * multiple for side in size)
    return height, width


def rounded_down(size: Size, multiple: int) -> Size:
    """Multiples of a number that are not above the size."""
    height, width = (side // multiple * multiple for side in size)
    return height, width
