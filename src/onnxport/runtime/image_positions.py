"""Positions on three axes (frame, row, column) of texts with images, for decoders with multimodal rotary embeddings.

Source: `Qwen2VLModel.get_rope_index` and `get_vision_position_ids` of transformers 5.23
(models/qwen2_vl/modeling_qwen2_vl.py), which models of several families share. A token of the text has the same
position on all axes. The tokens of an image have the position of the text before them plus their frame, row and
column; the text after it continues after the largest of these.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError

AXES = 3
Ids = NDArray[np.int64]


def image_positions(ids: Ids, mask: Ids | None, grids: Ids, image_token: int, merge: int) -> Ids:
    """Positions of the tokens of prompts.

    Args:
        ids: (rows, tokens).
        mask: the same shape, 0 where a token is padding; None for no padding.
        grids: (images, 3) frames, rows and columns of patches, in the order of the images in the texts.
        image_token: the token in the place of each row of image features.
        merge: patches along each side of what becomes one row of features (`spatial_merge_size`).

    Returns:
        (3, rows, tokens) int64; 0 where a token is padding.

    Raises:
        UsageError: the image tokens do not match the grids.
    """
    positions = np.zeros((AXES, *ids.shape), np.int64)
    remaining = iter(grids)
    for row, tokens in enumerate(ids):
        real = np.arange(len(tokens)) if mask is None else np.flatnonzero(mask[row])
        for indices, grid in _segments(real, tokens[real] == image_token, remaining):
            start = int(positions[:, row].max()) + 1 if indices[0] != real[0] else 0
            if grid is None:
                positions[:, row, indices] = np.arange(len(indices)) + start
                continue
            sides = (int(grid[0]), int(grid[1]) // merge, int(grid[2]) // merge)
            if len(indices) != np.prod(sides):
                raise UsageError(
                    f"There are {len(indices)} image tokens in a row, but an image of {list(map(int, grid))} patches "
                    f"has {np.prod(sides)}.",
                    hint="Put text between images, and prepare both with the model's processor.",
                )
            positions[:, row, indices] = np.indices(sides).reshape(AXES, -1) + start
    return positions


def positions_behind(text: Ids, mask: Ids, prompt: Ids) -> Ids:
    """Positions of the tokens of a call, some of which may belong to the prompt.

    Args:
        text: (rows, tokens) their indices among the row's real tokens.
        mask: (rows, tokens) of all tokens, with those of this call.
        prompt: (3, rows, tokens of the prompt) what `image_positions` returned; without tokens if there is no image.

    Returns:
        (3, rows, tokens) int64.
    """
    known, past = prompt.shape[2], mask.shape[1] - text.shape[1]
    made = np.repeat(text[None], AXES, 0)
    if known:
        # The positions of an image grow by its longer side alone, so they are smaller than the number of tokens.
        made += (prompt.max((0, 2)) + 1 - mask[:, :known].sum(1))[None, :, None]
        inside = max(known - past, 0)
        made[:, :, :inside] = prompt[:, :, past : past + text.shape[1]]
    return made


def _segments(real: Ids, is_image: NDArray[np.bool_], grids: Iterator[Ids]) -> Iterator[tuple[Ids, Ids | None]]:
    """Indices of neighbouring tokens of text, or of one image with its grid.

    Raises:
        UsageError: there are more images than grids.
    """
    ends = np.flatnonzero(np.diff(is_image)) + 1
    for indices, kind in zip(np.split(real, ends), np.split(is_image, ends), strict=True):
        if not len(indices):
            continue
        grid = next(grids, None) if kind[0] else None
        if kind[0] and grid is None:
            raise UsageError("The texts have more images than there are grids.", hint="Use the model's processor.")
        yield indices, grid
