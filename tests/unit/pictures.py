"""Pictures of pages, compared in a way that does not depend on fonts.

Text is another width with another font, and so breaks elsewhere. What is compared is therefore where the page is light
and dark, coloured and plain, on a coarse grid: each cell is the mean of its pixels. A missing section, a chart without
marks or a wrong scheme changes many cells; another font changes few of them, and by little.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "pictures"
_REDUCED = 2  # recorded at half the size
_CELL = 10  # pixels of the reduced picture
_BLUR = 2  # cells to each side: lines of text may move by as much
_MEAN, _CELLS, _HEIGHT = 2.5, 0.012, 0.12


def check_picture(name: str, png: bytes) -> None:
    """Compare a picture with the recorded one; UPDATE_SNAPSHOTS=1 records it."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB").reduce(_REDUCED)
    file = FOLDER / f"{name}.png"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        image.quantize(64).save(file, optimize=True)
    recorded = Image.open(file).convert("RGB")
    assert recorded.width == image.width
    tall = abs(recorded.height - image.height) / recorded.height
    if tall > _HEIGHT:
        pytest.fail(f"{name} is {image.height} pixels high, and the recorded one {recorded.height}")
    far = difference(np.asarray(image), np.asarray(recorded))
    assert far.mean() < _MEAN, f"{name}: cells differ by {far.mean():.1f} of 255 on average"
    assert (far > 40).mean() < _CELLS, f"{name}: {(far > 40).mean():.1%} of the cells differ"


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each cell of two pictures of one width, how far it is from the nearest cell around it in the other one."""
    first, second = cells(one), cells(other)
    rows = min(len(first), len(second))
    first, second = first[:rows], second[:rows]
    best = np.full(first.shape[:2], np.inf)
    padded = np.pad(second, ((_BLUR, _BLUR), (_BLUR, _BLUR), (0, 0)), mode="edge")
    for down in range(2 * _BLUR + 1):
        for right in range(2 * _BLUR + 1):
            moved = padded[down : down + rows, right : right + first.shape[1]]
            best = np.minimum(best, np.abs(first - moved).mean(2))
    return best


def cells(picture: np.ndarray) -> np.ndarray:
    """Mean colours of a grid over a picture (rows, columns, 3)."""
    high, wide = picture.shape[0] // _CELL, picture.shape[1] // _CELL
    whole = picture[: high * _CELL, : wide * _CELL].astype(np.float64)
    return whole.reshape(high, _CELL, wide, _CELL, 3).mean((1, 3))
