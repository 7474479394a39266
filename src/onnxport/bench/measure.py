"""Measure arms over sizes, in random order with pauses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from onnxport.bench.arms import Arm, ArmProcess, Arrays, Opened

# Threads of ONNX Runtime spin for a while after a run; without a pause they would slow down the next arm.
_PAUSE_SECONDS = 0.1
_ROUNDS = 3
_MOST_RUNS = 200  # of a cell in one round


@dataclass(frozen=True)
class Cell:
    """One kind of call.

    Attributes:
        label: of a decoder "prompt" or "step", else "".
        batch: rows.
        length: size of the axis that --length sets; 0 where there is none.
        inputs: of the call.
    """

    label: str
    batch: int
    length: int
    inputs: Arrays


@dataclass(frozen=True)
class Timing:
    """An arm at a cell.

    Attributes:
        p50, p90, p99: percentiles of the time of a run in seconds.
        rows_per_second: batch / mean time.
        runs: how many were timed.
        of_first: p50 as a share of the first arm's.
    """

    arm: str
    label: str
    batch: int
    length: int
    p50: float
    p90: float
    p99: float
    rows_per_second: float
    runs: int
    of_first: float


def measure(
    arms: Sequence[Arm], cells: Sequence[Cell], seconds: float, told: Callable[[str], None]
) -> tuple[dict[str, Opened], list[Timing]]:
    """The start of every arm, and every arm at every cell.

    Args:
        arms: the first is what the others are compared with.
        cells: kinds of calls.
        seconds: of measuring each arm at each cell, split into rounds in which all arms take their turn.
        told: what is being measured.

    Raises:
        UsageError: an arm cannot be opened, or cannot run a cell.
    """
    order = random.Random(0)
    timings: list[Timing] = []
    with ExitStack() as stack:
        processes: list[ArmProcess] = []
        for arm in arms:
            told(f"open {arm.name}")
            processes.append(stack.enter_context(ArmProcess(arm, cells[0].inputs)))
        for cell in cells:
            told(f"{cell.label} batch {cell.batch}, length {cell.length}".strip())
            times: dict[str, list[float]] = {arm.name: [] for arm in arms}
            for _ in range(_ROUNDS):
                for process in order.sample(processes, len(processes)):
                    times[process.arm.name] += process.run(cell.inputs, seconds / _ROUNDS, _MOST_RUNS)
                    time.sleep(_PAUSE_SECONDS)
            timings += _timings(cell, times)
        return {process.arm.name: process.opened for process in processes}, timings


def _timings(cell: Cell, times: Mapping[str, Sequence[float]]) -> list[Timing]:
    first = float(np.percentile(next(iter(times.values())), 50))
    found = []
    for name, values in times.items():
        p50, p90, p99 = (float(one) for one in np.percentile(values, (50, 90, 99)))
        rows = cell.batch / float(np.mean(values))
        found.append(
            Timing(name, cell.label, cell.batch, cell.length, p50, p90, p99, rows, len(values), p50 / first)
        )  # fmt: skip
    return found
