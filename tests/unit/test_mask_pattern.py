"""What a mask means is read from its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from onnxport.graph.fusion.mask_pattern import MaskPattern, find_mask_pattern, reference_mask

LOWEST = np.finfo(np.float32).min


def seen(mask, new, window=None):
    """(rows, 1, new, total), written another way than in the module."""
    rows, total = mask.shape
    out = np.zeros((rows, 1, new, total), bool)
    for row in range(rows):
        for place in range(new):
            query = total - new + place
            first = 0 if window is None else max(0, query - window + 1)
            out[row, 0, place, first : query + 1] = mask[row, first : query + 1] == 1
    return out


@pytest.mark.parametrize("window", [None, 1, 6, 40])
def test_causal_with_and_without_a_window(window):
    assert find_mask_pattern(lambda mask, new: seen(mask, new, window), 64) == MaskPattern(window)


def test_numbers_that_are_added():
    assert find_mask_pattern(lambda mask, new: np.where(seen(mask, new, 6), 0, LOWEST).astype(np.float32), 64) == (
        MaskPattern(6)
    )


def test_padding_that_attends_to_anything():
    def evaluate(mask, new):
        found = seen(mask, new)
        found[mask[:, None, mask.shape[1] - new :] == 0] = True
        return found

    assert find_mask_pattern(evaluate, 64) == MaskPattern(None)


def test_a_window_of_the_longest_text_is_none():
    assert find_mask_pattern(lambda mask, new: seen(mask, new, 64), 64) == MaskPattern(None)
    assert find_mask_pattern(lambda mask, new: seen(mask, new, 63), 64) == MaskPattern(63)


def alibi(mask, new):
    distance = np.arange(mask.shape[1], dtype=np.float32)
    return np.where(seen(mask, new), distance[None, None, None], LOWEST)


def both_ways(mask, new):
    return np.broadcast_to((mask == 1)[:, None, None], (len(mask), 1, new, mask.shape[1]))


def blind_to_padding(mask, new):
    return seen(np.ones_like(mask), new)


def chunks(mask, new):
    """Tokens see only their own chunk of eight."""
    total = mask.shape[1]
    query, key = np.arange(total - new, total)[:, None] // 8, np.arange(total)[None] // 8
    return seen(mask, new) & (query == key)[None, None]


def off_by_one_over_a_past(mask, new):
    found = seen(mask, new)
    if new > 1 and mask.shape[1] > new:
        found[..., -1] = (mask[:, -1] == 1)[:, None, None]
    return found


def heads_differ(mask, new):
    return np.concatenate([seen(mask, new), seen(mask, new, 3)], 1)


@pytest.mark.parametrize("other", [alibi, both_ways, blind_to_padding, chunks, off_by_one_over_a_past, heads_differ])
def test_other_meanings(other):
    assert find_mask_pattern(other, 64) is None


def test_the_definition_is_what_the_test_writes_out():
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(reference_mask(MaskPattern(2), mask, 3), seen(mask, 3, 2)[:, 0])
