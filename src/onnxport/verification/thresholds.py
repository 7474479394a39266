"""Sizes at which a model may begin to do something else, chosen from the numbers that it names itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxport.verification.level import Level

# Words in names of sizes that are compared with a length: windows, blocks, buckets, tables.
_LENGTHS = (
    "position", "window", "bucket", "distance", "block", "chunk", "length", "local", "span", "stride", "context",
    "ctx", "seq", "memory", "limit", "horizon",
)  # fmt: skip
_CHEAP = 32
_OTHERS = ("layer", "head", "dim", "hidden", "vocab", "_id", "token")


def thresholds(numbers: Mapping[int, str], smallest: int, largest: int, level: Level) -> list[int]:
    """The numbers that may be thresholds of a length, in ascending order.

    Args:
        numbers: what the model names, and where.
        smallest, largest: sizes of the axis that are used otherwise; numbers outside are none.
        level: with `THOROUGH` all numbers count, else those whose name speaks of a length.

    >>> numbers = {64: "sliding_window", 384: "hidden_size", 30522: "vocab_size"}
    >>> thresholds(numbers, 2, 512, Level.STANDARD), thresholds(numbers, 2, 512, Level.THOROUGH)
    ([64], [64, 384])
    """
    return sorted(
        number
        for number, name in numbers.items()
        if smallest < number <= largest and (level is Level.THOROUGH or names_a_length(name))
    )


def names_a_length(name: str) -> bool:
    """Whether a size of that name is compared with a length.

    >>> names_a_length("max_position_embeddings"), names_a_length("num_hidden_layers")
    (True, False)
    """
    lower = name.lower()
    if lower.startswith("code of "):
        return True
    return any(word in lower for word in _LENGTHS) and not any(word in lower for word in _OTHERS)


def around(threshold: int, level: Level) -> Sequence[int]:
    """Sizes to compare for a threshold, the most telling first: a window shows only beyond it.

    >>> list(around(16, Level.STANDARD)), list(around(512, Level.STANDARD))
    ([17, 16], [513])
    """
    if level is Level.THOROUGH:
        return threshold + 1, threshold, threshold - 1
    return (threshold + 1, threshold) if threshold <= _CHEAP else (threshold + 1,)
