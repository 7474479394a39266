"""Prompts of texts with images: image features in the place of image tokens."""

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
    """The inputs of one image after the other.

    Args:
        inputs: arrays with images on axis 0. If `pixel_values` is (texts, tiles, channels, height, width), all arrays
            have texts and tiles on axes 0 and 1; tiles of zeros are padding. With `image_grid_thw` (images, 3),
            `pixel_values` are the patches of all images (patches, numbers); the product of a grid is the number of
            patches of its image.

    Yields:
        Arrays with one image, or with one text and one tile.

    Raises:
        UsageError: the arrays have different numbers of images, or there are videos.
    """
    pixels = inputs.get(_PIXELS)
    if GRID in inputs and pixels is not None:
        yield from _patches_of(inputs[GRID], pixels)
        return
    axes = 2 if pixels is not None and pixels.ndim == _TILED else 1
    counts = {name: array.shape[:axes] for name, array in inputs.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(f"The inputs have different numbers of images: {counts}.", hint="Use the model's processor.")
    for place in np.ndindex(*next(iter(counts.values()), (0,))):
        if axes == 1 or pixels is None or pixels[place].any():
            where = tuple(slice(number, number + 1) for number in place)
            yield {name: array[where] for name, array in inputs.items()}


def _patches_of(grids: NDArray[Any], pixels: NDArray[Any]) -> Iterator[dict[str, NDArray[Any]]]:
    ends = grids.prod(1).cumsum()
    if (grids[:, 0] != 1).any():
        raise UsageError("image_grid_thw has more than one frame: videos are not supported.", hint="Give images.")
    if len(ends) and ends[-1] != len(pixels):
        raise UsageError(
            f"image_grid_thw has {ends[-1]} patches, but pixel_values has {len(pixels)}.",
            hint="Use the model's processor.",
        )
    for number, end in enumerate(ends):
        yield {_PIXELS: pixels[ends[number - 1] if number else 0 : end], GRID: grids[number : number + 1]}


def image_prompt(inputs: Mapping[str, NDArray[Any]], features: Sequence[Floats], image_token: int) -> Prompt:
    """The prompt of texts with images.

    Args:
        inputs: `input_ids` (rows, tokens), padded on the left; `attention_mask`, if rows are padded;
            `token_type_ids`, if the decoder takes them; and `image_grid_thw`, if the images have one.
        features: (tokens, hidden) of each image, in the order of the images in the texts.
        image_token: the token in the place of each row of image features.

    Raises:
        UsageError: the number of image tokens is not that of the features, or there are videos.
    """
    if _VIDEOS in inputs:
        raise UsageError("Videos are not supported.", hint=f"Leave {_VIDEOS} out.")
    ids = np.asarray(inputs["input_ids"], np.int64)
    counts = (ids == image_token).sum(1)
    rows = sum(map(len, features))
    if counts.sum() != rows:
        raise UsageError(
            f"The texts have {counts.sum()} image tokens, but the images have {rows} rows of features.",
            hint="Prepare text and images together, with the model's processor.",
        )
    given = [np.concatenate(list(features))] if len(features) else []
    split = np.split(given[0], np.cumsum(counts)[:-1]) if given else [np.zeros((0, 0), np.float32) for _ in ids]
    mask = np.asarray(inputs["attention_mask"], np.int64) if "attention_mask" in inputs else None
    extra: dict[str, Any] = {FEATURES: split}
    if TYPES in inputs:
        extra[TYPES] = np.asarray(inputs[TYPES], np.int64)
    if GRID in inputs and len(features):
        grids = np.asarray(inputs[GRID], np.int64)
        merge = math.isqrt(int(grids[0].prod()) // len(features[0]))  # patches along each side of a row of features
        extra[POSITIONS] = image_positions(ids, mask, grids, image_token, merge)
    return Prompt(ids, mask, extra)


def with_features(
    embed: Callable[[Ids], Floats], ids: Ids, waiting: Sequence[Floats], image_token: int
) -> tuple[Floats, list[Floats]]:
    """Embeddings of tokens, with image features in the place of image tokens.

    After the last feature, image tokens are ordinary tokens: the model may generate one.

    Args:
        embed: ids (rows, tokens) -> embeddings (rows, tokens, hidden).
        ids: (rows, tokens).
        waiting: features of each row, (tokens, hidden), that are not used yet.
        image_token: the token that is replaced.

    Returns:
        The embeddings, and the features that remain.
    """
    places = [np.flatnonzero(row == image_token)[: len(left)] for row, left in zip(ids, waiting, strict=True)]
    known = ids.copy()
    for row, taken in enumerate(places):
        known[row, taken] = 0  # the table may have no row for image tokens
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
