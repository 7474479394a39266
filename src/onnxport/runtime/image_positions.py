"""Positions on three axes (frame, row, column) of texts with images, for decoders that rotate by all three.

Source: `Qwen2VLModel.get_rope_index` and `get_vision_position_ids` of transformers 5.23
(models/qwen2_vl/modeling_qwen2_vl.py), which models of several families share. A token of a text has one number on
all axes; those of an image count its frames, rows and columns from where the text stands, and the text goes on behind
the longer side of the image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError

AXES = 3
Ids = NDArray[np.int64]


def image_positions(ids: Ids, mask: Ids | None, grids: Ids, image_token: int, merge: int) -> Ids:
    """Positions of prompts.

    Args:
        ids: (rows, tokens).
        mask: the same shape, 0 where a token is padding; None for no padding.
        grids: (images, 3) frames, rows and columns of patches, in the order in which the texts have the images.
        image_token: stands for a row of image features.
        merge: patches on each side of what becomes one row of features.

    Returns:
        (3, rows, tokens); 0 where a token is padding.

    Raises:
        UsageError: image tokens do not stand together as the grids say.
    """
    positions = np.zeros((AXES, *ids.shape), np.int64)
    left = iter(grids)
    for row, tokens in enumerate(ids):
        real = np.arange(len(tokens)) if mask is None else np.flatnonzero(mask[row])
        for places, grid in _parts(real, tokens[real] == image_token, left):
            start = int(positions[:, row].max()) + 1 if places[0] != real[0] else 0
            if grid is None:
                positions[:, row, places] = np.arange(len(places)) + start
                continue
            sides = (int(grid[0]), int(grid[1]) // merge, int(grid[2]) // merge)
            if len(places) != np.prod(sides):
                raise UsageError(
                    f"{len(places)} image tokens stand together, and an image of {list(map(int, grid))} patches has "
                    f"{np.prod(sides)} of them.",
                    hint="Put text between images, and prepare both with the model's processor.",
                )
            positions[:, row, places] = np.indices(sides).reshape(AXES, -1) + start
    return positions


def positions_behind(text: Ids, mask: Ids, prompt: Ids) -> Ids:
    """Positions of tokens of which the first may belong to a prompt.

    Args:
        text: (rows, tokens) their numbers among the row's real tokens.
        mask: (rows, all tokens up to the last of these).
        prompt: (3, rows, tokens of the prompt), as `image_positions` gives it; of no tokens where there is no image.

    Returns:
        (3, rows, tokens).
    """
    known, past = prompt.shape[2], mask.shape[1] - text.shape[1]
    made = np.repeat(text[None], AXES, 0)
    if known:
        # Behind an image the text is less far than it has tokens.
        made += (prompt.max((0, 2)) + 1 - mask[:, :known].sum(1))[None, :, None]
        inside = max(known - past, 0)
        made[:, :, :inside] = prompt[:, :, past : past + text.shape[1]]
    return made


def _parts(real: Ids, images: NDArray[np.bool_], grids: Iterator[Ids]) -> Iterator[tuple[Ids, Ids | None]]:
    """Places of tokens of one kind that stand together, and the grid of those that are an image.

    Raises:
        UsageError: there are more images than grids.
    """
    ends = np.flatnonzero(np.diff(images)) + 1
    for places, kind in zip(np.split(real, ends), np.split(images, ends), strict=True):
        if not len(places):
            continue
        grid = next(grids, None) if kind[0] else None
        if kind[0] and grid is None:
            raise UsageError("The texts have more images than there are grids.", hint="Use the model's processor.")
        yield places, grid
