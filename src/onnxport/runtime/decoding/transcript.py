"""The text of a recording, from the tokens of its windows, which overlap and may have timestamps.

Source: `_decode_asr` and `_find_longest_common_sequence` of transformers 5.23
(models/whisper/tokenization_whisper.py), without times of words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_SEGMENT = 1500  # steps of the timestamps in a window of 30 s


@dataclass(frozen=True)
class Stride:
    """A window: its length, and what it shares with its neighbours on both sides, in seconds."""

    length: float
    left: float
    right: float


@dataclass
class _Times:
    """Timestamps of one window: which to skip because a neighbour hears them better, and the time so far."""

    skip_until: float
    skip_from: int | None = None
    largest: float = 0.0
    before: float = 0.0
    earlier: float = 0.0  # length of the segments before, if several are joined in one answer


class Transcript:
    """Takes the tokens of one window after the other.

    Args:
        special: tokens that are no text.
        first_time: the token of 0 s; every later token is a timestamp.
        step: seconds between two timestamps.
        decode: tokens -> text.

    Attributes:
        chunks: {"timestamp": (start, end), "text": str}; a time is None where the model gave none.
    """

    def __init__(
        self, special: Collection[int], first_time: int, step: float, decode: Callable[[Sequence[int]], str]
    ) -> None:
        self._special, self._first, self._step, self._decode = special, first_time, step, decode
        self.chunks: list[dict[str, Any]] = []
        self._start: float | None = None
        self._waiting: list[list[int]] = []  # tokens of windows whose overlap is not resolved
        self._offset, self._skipping = 0.0, False

    @property
    def text(self) -> str:
        """The text of all chunks."""
        return "".join(chunk["text"] for chunk in self.chunks)

    def add(self, tokens: Sequence[int], stride: Stride | None = None) -> None:
        """The tokens of the next window."""
        times = _Times(self._first)
        if stride is not None:
            self._offset -= stride.left
            times.skip_from = self._first_in_overlap(tokens, stride) if stride.right else None
            times.skip_until = stride.left / self._step + self._first if stride.left else self._first
        current: list[int] = []
        for place, token in enumerate(tokens):
            if token in self._special:
                continue
            if token < self._first:
                current.append(token)
            elif (end := self._time(tokens, place, times)) is not None:
                self._close(end, current)
                current = []
        if stride is not None:
            self._offset += stride.length - stride.right
        if current:
            self._waiting.append(current)
        elif not any(self._waiting):
            self._start, self._waiting = None, []

    def finish(self) -> None:
        """The end of the recording."""
        if self._waiting:
            self._close(None, [])

    def _first_in_overlap(self, tokens: Sequence[int], stride: Stride) -> int | None:
        """The timestamp from which on the next window counts; the last one always does."""
        found = None
        for token in reversed([token for token in tokens if token >= self._first]):
            if found is not None and (token - self._first) * self._step < stride.length - stride.right:
                break
            found = token
        return found

    def _time(self, tokens: Sequence[int], place: int, times: _Times) -> float | None:
        """The time of a timestamp that ends a chunk; None if it begins one, or is skipped."""
        token = tokens[place]
        time = self._absolute(tokens, place, times)
        if times.skip_from and token >= times.skip_from:
            self._skipping = True
        elif self._skipping or (self._waiting and token < times.skip_until):
            self._skipping = False
        elif self._start is None:
            self._start = time
        elif time != self._start:  # the same time twice is a start
            return time
        return None

    def _absolute(self, tokens: Sequence[int], place: int, times: _Times) -> float:
        """Seconds from the beginning of the recording. A time that goes back begins the next segment of an answer."""
        seconds = float((tokens[place] - self._first) * self._step)
        if seconds < times.largest:
            pair = place >= 2 and all(token >= self._first for token in tokens[place - 2 : place])
            if place >= 2 and not pair:
                times.earlier += self._step * _SEGMENT
            else:
                times.largest = times.before
                times.earlier += times.before
        times.before, times.largest = times.largest, seconds
        return round(seconds + self._offset + times.earlier, 2)

    def _close(self, end: float | None, tokens: list[int]) -> None:
        waiting = [*self._waiting, tokens] if end is not None else self._waiting
        text = self._decode(joined(waiting))
        self.chunks.append({"timestamp": (self._start, end), "text": text})
        self._start, self._waiting = None, []


def joined(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of windows that overlap, once: each is laid over the next where most of their tokens are equal.

    Example:
        >>> joined([[1, 2, 3, 4], [3, 4, 5]])
        [1, 2, 3, 4, 5]
    """
    whole: list[int] = []
    left = list(sequences[0])
    for right in map(list, sequences[1:]):
        left_middle, right_middle = _best_overlap(left, right)
        whole += left[:left_middle]
        left = right[right_middle:]
    return whole + left


def _best_overlap(left: Sequence[int], right: Sequence[int]) -> tuple[int, int]:
    """Where the left sequence ends, and where the right one begins."""
    best, found = 0.0, (len(left), len(left), 0, 0)
    for shift in range(1, len(left) + len(right)):
        here = slice(max(0, len(left) - shift), min(len(left), len(left) + len(right) - shift))
        there = slice(max(0, shift - len(left)), min(len(right), shift))
        equal = int(np.sum(np.array(left[here]) == np.array(right[there])))
        share = equal / shift + shift / 10000.0  # of equal shares the longer one
        if equal > 1 and share > best:
            best, found = share, (here.start, here.stop, there.start, there.stop)
    return (found[0] + found[1]) // 2, (found[2] + found[3]) // 2
