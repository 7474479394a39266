"""Times of several arms in one process, so that none is disturbed by the threads of another.

Threads of ONNX Runtime, OpenMP and onnxruntime-genai go on spinning for a while after a call, and take the cores of
whoever comes next. So an arm begins when the process uses no CPU any more, runs once to wake its own threads and to
fetch its weights into the caches, and is timed after that. The order of the arms is another one in every turn.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_PAUSE = 0.02  # seconds
_ASLEEP = 0.05  # of the CPU of a pause
_PATIENCE = 100  # pauses


@dataclass(frozen=True)
class Work:
    """What is timed.

    Attributes:
        call: one call.
        before: runs before each call, and is not timed.
    """

    call: Callable[[], object]
    before: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Times:
    """Milliseconds of a call.

    Attributes:
        median: over turns, of the medians of the turns.
        low, high: quartiles over turns.
        turns: the median of each turn.
    """

    median: float
    low: float
    high: float
    turns: tuple[float, ...] = ()


def ratio(one: Times, other: Times) -> float:
    """Median over turns of the time of `one` relative to that of `other` in the same turn.

    Load on the machine that changes between turns disturbs it less than the ratio of their medians.
    """
    return statistics.median(mine / theirs for mine, theirs in zip(one.turns, other.turns, strict=True))


def measure(
    works: Mapping[str, Work], turns: int, calls: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Times]:
    """Time the calls of each arm.

    Args:
        works: by the names of the arms.
        turns: of each arm, two at least.
        calls: timed ones in a turn; one more goes before them.
        clock: seconds; `time.thread_time` for calls that run in this thread alone.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    shuffle = random.Random(0).shuffle
    for _ in range(turns):
        shuffle(order)
        for name in order:
            wait_for_silence()
            found[name].append(statistics.median(_turn(works[name], calls, clock)))
    return {name: _times(values) for name, values in found.items()}


def wait_for_silence() -> None:
    """Sleep until no thread of this process runs any more."""
    for _ in range(_PATIENCE):
        before = time.process_time()
        time.sleep(_PAUSE)
        if time.process_time() - before < _ASLEEP * _PAUSE:
            return
    raise RuntimeError("Some thread of this process never sleeps: nothing can be timed beside it.")


def _turn(work: Work, calls: int, clock: Callable[[], float]) -> list[float]:
    times = []
    for _ in range(calls + 1):
        work.before()
        start = clock()
        work.call()
        times.append(1000 * (clock() - start))
    return times[1:]


def _times(values: list[float]) -> Times:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Times(median, low, high, tuple(values))
