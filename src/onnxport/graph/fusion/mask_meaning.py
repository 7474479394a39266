"""What a decoder's mask means, proved on its numbers.

Each library, and each version of one, builds the same mask from other operators. Here it is run at
many sizes and compared with the definition, up to the longest text that the graph is used for:

    token q attends to token k  when  k <= q,  k > q - window,  and k is no padding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# What is added to a score to hide it is the lowest number of a type; of float16 it is -65504.
_HIDDEN_BELOW = -1e4
# (rows, past, new)
_SIZES = ((1, 0, 1), (1, 0, 2), (2, 0, 9), (3, 0, 17), (1, 7, 1), (3, 11, 1), (2, 5, 6), (4, 16, 3))
# Squares of this many tokens are still small.
_SQUARE = 1024

Evaluate = Callable[[np.ndarray, int], np.ndarray]
"""(mask (rows, past + new) of 0 and 1, new) -> the graph's mask, broadcastable to (rows, heads, new, past + new)"""


@dataclass(frozen=True)
class MaskMeaning:
    """Causal, without padding, within a window.

    Attributes:
        window: how many tokens one attends to, itself included; None is all.
    """

    window: int | None = None


def mask_meaning(evaluate: Evaluate, longest: int) -> MaskMeaning | None:
    """The meaning, or None where it is another one.

    Args:
        evaluate: runs the graph's mask: true or 0 where a token is seen, false or very low where not.
        longest: tokens up to which the meaning must hold.
    """
    seen = _seen(evaluate(np.ones((1, longest), np.int64), 1))
    if seen is None or seen.shape != (1, 1, longest):
        return None
    window = int(seen.sum())
    if not seen[0, 0, longest - window :].all():
        return None
    meaning = MaskMeaning(window if window < longest else None)
    for mask, new in _calls(meaning.window, longest):
        found = _seen(evaluate(mask, new))
        if found is None or not _equal(found, meaning, mask, new):
            return None
    return meaning


def defined(meaning: MaskMeaning, mask: np.ndarray, new: int) -> np.ndarray:
    """The definition: (rows, new, past + new) bool."""
    total = mask.shape[1]
    query, key = np.arange(total - new, total)[:, None], np.arange(total)[None]
    seen = key <= query
    if meaning.window is not None:
        seen &= key > query - meaning.window
    return np.asarray(seen[None] & (mask == 1)[:, None])


def _equal(found: np.ndarray, meaning: MaskMeaning, mask: np.ndarray, new: int) -> bool:
    """Up to what padding attends to, which means nothing."""
    wanted = defined(meaning, mask, new)
    if found.shape[1:] != wanted.shape[1:] or found.shape[0] not in (1, len(mask)):
        return False
    real = mask[:, mask.shape[1] - new :] == 1
    return bool((np.broadcast_to(found, wanted.shape) == wanted)[real].all())


def _seen(mask: np.ndarray) -> np.ndarray | None:
    """(rows, new, total) bool; None where something is neither hidden nor simply seen, or heads differ."""
    if mask.ndim < 2 or mask.ndim > 4:
        return None
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    if mask.dtype == bool:
        seen = mask
    else:
        seen = mask == 0
        if not (seen | (mask < _HIDDEN_BELOW)).all():
            return None
    return seen[:, 0] if (seen == seen[:, :1]).all() else None


def _calls(window: int | None, longest: int) -> Iterator[tuple[np.ndarray, int]]:
    sizes = list(_SIZES)
    if window is not None:
        sizes += [(2, max(window + more, 0), 3) for more in (-3, -2, -1, 0, 1, 7)]
        if window <= _SQUARE:
            sizes += [(2, 0, window + 5), (2, window // 2, window + 2)]
    for number, (rows, past, new) in enumerate(sizes):
        total = past + new
        if total > longest:
            continue
        yield np.ones((rows, total), np.int64), new
        left = np.ones((rows, total), np.int64)
        for row in range(1, rows):  # the last row's padding reaches into the new tokens
            left[row, : min(total - 1, total * row // rows + number % 2)] = 0
        yield left, new
        holes = (np.random.default_rng(number).random((rows, total)) > 0.3).astype(np.int64)
        yield holes, new
