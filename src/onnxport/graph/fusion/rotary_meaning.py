"""What is done to queries and keys before they meet, proved on its numbers.

A rotation by position, in pairs of features, that is the same for every head:

    first'  = first * cos[position] - second * sin[position]
    second' = second * cos[position] + first * sin[position]

Pairs are (i, i + half), or (2 i, 2 i + 1), of the first features; the others stay. The tables of
cosines and sines are the graph's own numbers, factors of long texts included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Rounding of one product of float32, by the operators or by numpy.
_CLOSE = 1e-5
_PIECE = 2**22  # numbers of one call
# A pair is found at these positions: slow rotations turn visibly only far on.
_TURNING = (1, 2, 3, 5, 31, 1000, 30000)

Evaluate = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(x (rows, heads, tokens, features) float32, positions (rows, tokens) int64) -> what it becomes, same shape"""


@dataclass(frozen=True)
class RotaryMeaning:
    """A rotation.

    Attributes:
        cos, sin: (positions, pairs) float32.
        interleaved: pairs are neighbours.
    """

    cos: np.ndarray
    sin: np.ndarray
    interleaved: bool


def rotary_meaning(evaluate: Evaluate, heads: int, features: int, longest: int) -> RotaryMeaning | None:
    """The rotation, or None where it is something else.

    Args:
        evaluate: runs the graph from the features to what they become.
        longest: number of positions that the tables must have.
    """
    layout = _layout(evaluate, heads, features, longest)
    if layout is None:
        return None
    pairs, interleaved = layout
    first, second = pair_places(pairs, interleaved)
    probe = np.zeros(features, np.float32)
    probe[first] = 1
    cos, sin = [], []
    step = max(1, _PIECE // (heads * features))
    for start in range(0, longest, step):
        positions = np.arange(start, min(start + step, longest))[None]
        turned = evaluate(np.broadcast_to(probe, (1, heads, positions.size, features)).copy(), positions)
        cos.append(turned[0, 0][:, first])
        sin.append(turned[0, 0][:, second])
    meaning = RotaryMeaning(np.concatenate(cos), np.concatenate(sin), interleaved)
    return meaning if is_rotation(evaluate, meaning, heads, features) else None


def pair_places(pairs: int, interleaved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which features are the first and the second of each pair."""
    count = np.arange(pairs)
    return (2 * count, 2 * count + 1) if interleaved else (count, count + pairs)


def rotate(meaning: RotaryMeaning, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The definition: (rows, heads, tokens, features) -> the same shape."""
    first, second = pair_places(meaning.cos.shape[1], meaning.interleaved)
    cos, sin = meaning.cos[positions][:, None], meaning.sin[positions][:, None]
    turned = x.copy()
    turned[..., first] = x[..., first] * cos - x[..., second] * sin
    turned[..., second] = x[..., second] * cos + x[..., first] * sin
    return turned


def _layout(evaluate: Evaluate, heads: int, features: int, longest: int) -> tuple[int, bool] | None:
    """(number of pairs, whether they are neighbours), from what each feature alone becomes."""
    positions = np.array([[place for place in _TURNING if place < longest]])
    if not positions.size:
        return None
    moves = np.zeros((features, features), bool)  # [from, to]
    for feature in range(features):
        x = np.zeros((1, heads, positions.size, features), np.float32)
        x[..., feature] = 1
        moves[feature] = (evaluate(x, positions)[0, 0] != x[0, 0]).any(0)
    turned = np.flatnonzero(moves.any(1))
    if not turned.size:
        return None
    partners = np.flatnonzero(moves[0] & (np.arange(features) > 0))
    if len(partners) != 1:
        return None
    interleaved = bool(partners[0] == 1 and turned[-1] > 1)
    return (int(turned[-1]) // 2 + 1, True) if interleaved else (int(partners[0]), False)


def is_rotation(evaluate: Evaluate, meaning: RotaryMeaning, heads: int, features: int) -> bool:
    """Whether the graph does just this, up to the last position of the tables.

    Tried on random features, at positions that differ from row to row, near ones and far ones in one call.
    """
    longest = len(meaning.cos)
    rng = np.random.default_rng(0)
    far = [0, longest - 1, longest // 2, min(1, longest - 1)]
    calls = [
        np.zeros((1, 1), np.int64),
        np.array([far, far[::-1]]),
        rng.integers(0, longest, (3, 7)),
        np.sort(rng.integers(0, max(1, longest // 4), (2, 33)), 1),
        np.arange(min(longest, 65))[None],
        np.array([[longest - 1]]),
    ]
    for positions in calls:
        x = rng.standard_normal((len(positions), heads, positions.shape[1], features)).astype(np.float32)
        wanted, found = rotate(meaning, x, positions), evaluate(x, positions)
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=_CLOSE, atol=_CLOSE):
            return False
    return True
