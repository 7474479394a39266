"""Texts with images in them as prompts: image features in the places of image tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.decoding.prefill import Prompt
from onnxport.runtime.image_positions import image_positions

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
_PIXELS, _TILED = "pixel_values", 5
_VIDEOS = "pixel_values_videos"
FEATURES, TYPES, GRID, POSITIONS = "image_features", "token_type_ids", "image_grid_thw", "image_position_ids"


def slices_of(inputs: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    """What is given for several images, one at a time.

    Args:
        inputs: arrays with one entry an image on axis 0; or, where `pixel_values` is (texts, tiles, channels, height,
            width), with texts and tiles on axes 0 and 1. Tiles of nothing but zeros fill up texts with fewer of them.
            Where there is `image_grid_thw` (images, 3), `pixel_values` are the patches of all images (patches,
            numbers), as many of each as the product of its row.

    Yields:
        Arrays with one image, or one text and one tile.

    Raises:
        UsageError: the arrays do not have equally many, or there are videos.
    """
    pixels = inputs.get(_PIXELS)
    if GRID in inputs and pixels is not None:
        yield from _patches_of(inputs[GRID], pixels)
        return
    axes = 2 if pixels is not None and pixels.ndim == _TILED else 1
    counts = {name: array.shape[:axes] for name, array in inputs.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(f"Inputs of images have different numbers of them: {counts}.")
    for place in np.ndindex(*next(iter(counts.values()), (0,))):
        if axes == 1 or pixels is None or pixels[place].any():
            where = tuple(slice(number, number + 1) for number in place)
            yield {name: array[where] for name, array in inputs.items()}


def _patches_of(grids: NDArray[Any], pixels: NDArray[Any]) -> Iterator[dict[str, NDArray[Any]]]:
    ends = grids.prod(1).cumsum()
    if (grids[:, 0] != 1).any():
        raise UsageError("An image has one frame, and image_grid_thw says otherwise.", hint="Videos are not taken.")
    if len(ends) and ends[-1] != len(pixels):
        raise UsageError(f"image_grid_thw says {ends[-1]} patches, and there are {len(pixels)}.")
    for number, end in enumerate(ends):
        yield {_PIXELS: pixels[ends[number - 1] if number else 0 : end], GRID: grids[number : number + 1]}


def image_prompt(inputs: Mapping[str, NDArray[Any]], features: Sequence[Floats], image_token: int) -> Prompt:
    """The prompt of texts with images.

    Args:
        inputs: `input_ids` (rows, tokens) and, if rows are padded (on the left), `attention_mask`; and
            `token_type_ids`, where the decoder takes them, and `image_grid_thw`, where images have one.
        features: of each image (tokens, hidden), in the order in which the texts have them.
        image_token: stands for one row of features.

    Raises:
        UsageError: there are more or fewer image tokens than features, or there are videos.
    """
    if _VIDEOS in inputs:
        raise UsageError("A converted folder takes images, and no videos.", hint=f"Leave {_VIDEOS} out.")
    ids = np.asarray(inputs["input_ids"], np.int64)
    counts = (ids == image_token).sum(1)
    rows = sum(map(len, features))
    if counts.sum() != rows:
        raise UsageError(
            f"The texts have room for {counts.sum()} rows of image features, the images give {rows}.",
            hint="Prepare text and images together, with the model's processor.",
        )
    given = [np.concatenate(list(features))] if len(features) else []
    split = np.split(given[0], np.cumsum(counts)[:-1]) if given else [np.zeros((0, 0), np.float32) for _ in ids]
    mask = np.asarray(inputs["attention_mask"], np.int64) if "attention_mask" in inputs else None
    fixed: dict[str, Any] = {FEATURES: split}
    if TYPES in inputs:
        fixed[TYPES] = np.asarray(inputs[TYPES], np.int64)
    if GRID in inputs and len(features):
        grids = np.asarray(inputs[GRID], np.int64)
        merge = math.isqrt(int(grids[0].prod()) // len(features[0]))  # patches on a side of one row of features
        fixed[POSITIONS] = image_positions(ids, mask, grids, image_token, merge)
    return Prompt(ids, mask, fixed)


def with_features(
    embed: Callable[[Ids], Floats], ids: Ids, waiting: Sequence[Floats], image_token: int
) -> tuple[Floats, list[Floats]]:
    """Embeddings of tokens, with image features in the places of image tokens.

    An image token that a model writes itself, after all features are taken, is a token as any other.

    Args:
        embed: from ids (rows, tokens) to embeddings (rows, tokens, hidden).
        waiting: features of each row that are not taken yet.

    Returns:
        The embeddings, and the features that still wait.
    """
    places = [np.flatnonzero(row == image_token)[: len(left)] for row, left in zip(ids, waiting, strict=True)]
    known = ids.copy()
    for row, taken in enumerate(places):
        known[row, taken] = 0  # image tokens may lie beyond the table
    embeds = embed(known)
    if not any(map(len, places)):
        return embeds, list(waiting)
    embeds, rest = embeds.copy(), list(waiting)
    for row, taken in enumerate(places):
        if not len(taken):
            continue
        embeds[row, taken] = waiting[row][: len(taken)]
        rest[row] = waiting[row][len(taken) :]
    return embeds, rest
