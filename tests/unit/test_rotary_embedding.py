"""What a rotation by position means is read from its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from onnxport.graph.fusion.rotary_embedding import find_rotary_tables

HEADS, FEATURES, LONGEST = 2, 16, 90


def turn(x, positions, features=FEATURES, interleaved=False, factor=1.0, base=100.0):
    """Complex numbers, to be another way than the module's."""
    half = features // 2
    angle = positions[:, None, :, None] * base ** (-np.arange(half) / half)
    part = x[..., :features].astype(np.float64)
    pairs = (
        part.reshape(*part.shape[:-1], half, 2) if interleaved else np.stack([part[..., :half], part[..., half:]], -1)
    )
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle) * factor
    both = np.stack([turned.real, turned.imag], -1)
    flat = both.reshape(part.shape) if interleaved else np.concatenate([both[..., 0], both[..., 1]], -1)
    return np.concatenate([flat, x[..., features:]], -1).astype(np.float32)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("features", "factor"), [(16, 1.0), (4, 1.0), (16, 1.19)])
def test_halves_neighbours_parts_and_factors(interleaved, features, factor):
    found = find_rotary_tables(lambda x, p: turn(x, p, features, interleaved, factor), HEADS, FEATURES, LONGEST)
    assert found is not None and found.interleaved == interleaved
    angle = np.arange(LONGEST)[:, None] * 100.0 ** (-np.arange(features // 2) / (features // 2))
    np.testing.assert_allclose(found.cos, factor * np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(found.sin, factor * np.sin(angle), atol=1e-6)


def nothing(x, positions):
    return x


def by_the_longest_position(x, positions):
    return turn(x, positions, base=100.0 if positions.max() < 50 else 1000.0)


def heads_differ(x, positions):
    return np.concatenate([turn(x[:, :1], positions), turn(x[:, 1:], positions, base=50.0)], 1)


def other_way_round(x, positions):
    return turn(x, -positions)


def squares(x, positions):
    return turn(x, positions) ** 2


def of_the_first_row(x, positions):
    return turn(x, np.broadcast_to(positions[:1], positions.shape))


@pytest.mark.parametrize("other", [nothing, by_the_longest_position, heads_differ, squares, of_the_first_row])
def test_other_meanings(other):
    assert find_rotary_tables(other, HEADS, FEATURES, LONGEST) is None


def test_the_other_direction_is_a_rotation_too():
    found = find_rotary_tables(other_way_round, HEADS, FEATURES, LONGEST)
    assert found is not None
    assert found.sin[1, 0] == pytest.approx(-np.sin(1.0))
