"""Find out by evaluation whether a decoder's mask is causal or a sliding window.

Each library, and each version of it, builds the same mask from other operators. The mask is therefore evaluated at many
sizes and compared with the definition, up to the largest number of tokens that the graph accepts:

    token q attends to token k  if  k <= q,  k > q - window,  and k is not padding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# A masked score gets the lowest number of its type added; for float16 it is -65504.
_HIDDEN_BELOW = -1e4
# (rows, past, new)
_SIZES = ((1, 0, 1), (1, 0, 2), (2, 0, 9), (3, 0, 17), (1, 7, 1), (3, 11, 1), (2, 5, 6), (4, 16, 3))
# Full (tokens, tokens) masks are tested up to this number of tokens.
_MAX_SQUARE = 1024

Evaluate = Callable[[np.ndarray, int], np.ndarray]
"""(mask (rows, past + new) of 0 and 1, new) -> the graph's mask, broadcastable to (rows, heads, new, past + new)"""


@dataclass(frozen=True)
class MaskPattern:
    """A causal mask that hides padding.

    Attributes:
        window: number of tokens that a token attends to, itself included; None is all.
    """

    window: int | None = None


def find_mask_pattern(evaluate: Evaluate, max_tokens: int) -> MaskPattern | None:
    """Return the pattern of a mask, or None if it is another one.

    Args:
        evaluate: runs the graph's mask: True or 0 where a token is visible, False or a very low number where not.
        max_tokens: number of tokens up to which the pattern must hold.
    """
    visible = _visible(evaluate(np.ones((1, max_tokens), np.int64), 1))
    if visible is None or visible.shape != (1, 1, max_tokens):
        return None
    window = int(visible.sum())
    if not visible[0, 0, max_tokens - window :].all():
        return None
    pattern = MaskPattern(window if window < max_tokens else None)
    for mask, new in _test_masks(pattern.window, max_tokens):
        found = _visible(evaluate(mask, new))
        if found is None or not _matches(found, pattern, mask, new):
            return None
    return pattern


def reference_mask(pattern: MaskPattern, mask: np.ndarray, new: int) -> np.ndarray:
    """Return the mask that a pattern defines.

    Args:
        pattern: the pattern.
        mask: (rows, past + new) of 0 (padding) and 1.
        new: number of new tokens.

    Returns:
        (rows, new, past + new) bool, True where a token is visible.
    """
    total = mask.shape[1]
    query, key = np.arange(total - new, total)[:, None], np.arange(total)[None]
    visible = key <= query
    if pattern.window is not None:
        visible &= key > query - pattern.window
    return np.asarray(visible[None] & (mask == 1)[:, None])


def _matches(found: np.ndarray, pattern: MaskPattern, mask: np.ndarray, new: int) -> bool:
    """Compare the masks of real tokens; what padding attends to is undefined."""
    expected = reference_mask(pattern, mask, new)
    if found.shape[1:] != expected.shape[1:] or found.shape[0] not in (1, len(mask)):
        return False
    real = mask[:, mask.shape[1] - new :] == 1
    return bool((np.broadcast_to(found, expected.shape) == expected)[real].all())


def _visible(mask: np.ndarray) -> np.ndarray | None:
    """Return (rows, new, total) bool; None if scores are neither hidden nor unchanged, or heads differ."""
    if mask.ndim < 2 or mask.ndim > 4:
        return None
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    if mask.dtype == bool:
        visible = mask
    else:
        visible = mask == 0
        if not (visible | (mask < _HIDDEN_BELOW)).all():
            return None
    return visible[:, 0] if (visible == visible[:, :1]).all() else None


def _test_masks(window: int | None, max_tokens: int) -> Iterator[tuple[np.ndarray, int]]:
    sizes = list(_SIZES)
    if window is not None:
        sizes += [(2, max(window + more, 0), 3) for more in (-3, -2, -1, 0, 1, 7)]
        if window <= _MAX_SQUARE:
            sizes += [(2, 0, window + 5), (2, window // 2, window + 2)]
    for number, (rows, past, new) in enumerate(sizes):
        total = past + new
        if total > max_tokens:
            continue
        yield np.ones((rows, total), np.int64), new
        left = np.ones((rows, total), np.int64)
        for row in range(1, rows):  # in the last row, padding reaches into the new tokens
            left[row, : min(total - 1, total * row // rows + number % 2)] = 0
        yield left, new
        holes = (np.random.default_rng(number).random((rows, total)) > 0.3).astype(np.int64)
        yield holes, new
