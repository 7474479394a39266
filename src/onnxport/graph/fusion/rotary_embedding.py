"""Find out by evaluation whether a subgraph applies a rotary position embedding, and with which tables.

A rotary embedding rotates pairs of features by an angle that depends on the position, the same for every head (Su et
al., RoFormer, https://arxiv.org/abs/2104.09864):

    first'  = first * cos[position] - second * sin[position]
    second' = second * cos[position] + first * sin[position]

Pairs are (i, i + half), or (2 i, 2 i + 1), of the first features; the other features are unchanged. The tables are
read from the graph's own results, so they include scaling factors for long contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Tolerance: float32 rounding differs between ONNX Runtime and numpy.
_CLOSE = 1e-5
_CHUNK_VALUES = 2**22  # elements evaluated in one call
# Positions at which pairs are looked for: slow rotations change values visibly only at large positions.
_PROBED_POSITIONS = (1, 2, 3, 5, 31, 1000, 30000)

Evaluate = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(x (rows, heads, tokens, features) float32, positions (rows, tokens) int64) -> rotated x, same shape"""


@dataclass(frozen=True)
class RotaryTables:
    """The tables of a rotary embedding.

    Attributes:
        cos: (positions, pairs) float32.
        sin: (positions, pairs) float32.
        interleaved: pairs are (2 i, 2 i + 1), not (i, i + half).
    """

    cos: np.ndarray
    sin: np.ndarray
    interleaved: bool


def find_rotary_tables(evaluate: Evaluate, heads: int, features: int, positions_count: int) -> RotaryTables | None:
    """Return the tables of a rotary embedding, or None if the subgraph computes anything else.

    Args:
        evaluate: runs the subgraph.
        heads: number of heads.
        features: features of a head.
        positions_count: number of positions in the tables.
    """
    layout = _pair_layout(evaluate, heads, features, positions_count)
    if layout is None:
        return None
    pairs, interleaved = layout
    first, second = pair_indices(pairs, interleaved)
    probe = np.zeros(features, np.float32)
    probe[first] = 1
    cos, sin = [], []
    step = max(1, _CHUNK_VALUES // (heads * features))
    for start in range(0, positions_count, step):
        positions = np.arange(start, min(start + step, positions_count))[None]
        rotated = evaluate(np.broadcast_to(probe, (1, heads, positions.size, features)).copy(), positions)
        cos.append(rotated[0, 0][:, first])
        sin.append(rotated[0, 0][:, second])
    tables = RotaryTables(np.concatenate(cos), np.concatenate(sin), interleaved)
    return tables if is_rotation(evaluate, tables, heads, features) else None


def pair_indices(pairs: int, interleaved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the feature indices of the first and of the second of each pair.

    Args:
        pairs: number of pairs.
        interleaved: pairs are neighbours.
    """
    count = np.arange(pairs)
    return (2 * count, 2 * count + 1) if interleaved else (count, count + pairs)


def rotate(tables: RotaryTables, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Apply the definition of the rotary embedding, as a reference.

    Args:
        tables: cosines and sines.
        x: (rows, heads, tokens, features).
        positions: (rows, tokens).

    Returns:
        The rotated features, of the same shape.
    """
    first, second = pair_indices(tables.cos.shape[1], tables.interleaved)
    cos, sin = tables.cos[positions][:, None], tables.sin[positions][:, None]
    rotated = x.copy()
    rotated[..., first] = x[..., first] * cos - x[..., second] * sin
    rotated[..., second] = x[..., second] * cos + x[..., first] * sin
    return rotated


def _pair_layout(evaluate: Evaluate, heads: int, features: int, positions_count: int) -> tuple[int, bool] | None:
    """Return (number of pairs, whether they are neighbours), from the effect on each single feature."""
    positions = np.array([[position for position in _PROBED_POSITIONS if position < positions_count]])
    if not positions.size:
        return None
    changes = np.zeros((features, features), bool)  # [from, to]
    for feature in range(features):
        x = np.zeros((1, heads, positions.size, features), np.float32)
        x[..., feature] = 1
        changes[feature] = (evaluate(x, positions)[0, 0] != x[0, 0]).any(0)
    rotated = np.flatnonzero(changes.any(1))
    if not rotated.size:
        return None
    partners = np.flatnonzero(changes[0] & (np.arange(features) > 0))
    if len(partners) != 1:
        return None
    interleaved = bool(partners[0] == 1 and rotated[-1] > 1)
    return (int(rotated[-1]) // 2 + 1, True) if interleaved else (int(partners[0]), False)


def is_rotation(evaluate: Evaluate, tables: RotaryTables, heads: int, features: int) -> bool:
    """Return whether the subgraph applies exactly these tables.

    It is compared with `rotate` on random features, at positions that differ between rows, small and large ones in one
    call.

    Args:
        evaluate: runs the subgraph.
        tables: cosines and sines.
        heads: number of heads.
        features: features of a head.
    """
    positions_count = len(tables.cos)
    rng = np.random.default_rng(0)
    far = [0, positions_count - 1, positions_count // 2, min(1, positions_count - 1)]
    calls = [
        np.zeros((1, 1), np.int64),
        np.array([far, far[::-1]]),
        rng.integers(0, positions_count, (3, 7)),
        np.sort(rng.integers(0, max(1, positions_count // 4), (2, 33)), 1),
        np.arange(min(positions_count, 65))[None],
        np.array([[positions_count - 1]]),
    ]
    for positions in calls:
        x = rng.standard_normal((len(positions), heads, positions.shape[1], features)).astype(np.float32)
        wanted, found = rotate(tables, x, positions), evaluate(x, positions)
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=_CLOSE, atol=_CLOSE):
            return False
    return True
