"""Measure the cost of a conversion: wall and CPU seconds of each step, and the peak of resident memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from onnxport.progress import Reporter, Step


@dataclass
class Stopwatch:
    """Times named steps and shows them with a reporter.

    Attributes:
        reporter: shows the steps.
        wall: step -> wall seconds.
        cpu: step -> CPU seconds.
    """

    reporter: Reporter
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Step]:
        """Time one step; the times of steps with the same name are added.

        Args:
            name: key in `wall` and `cpu`.
            title: title for the reporter.
        """
        wall, cpu = time.perf_counter(), time.process_time()
        with self.reporter.step(title) as step:
            try:
                yield step
            finally:
                self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
                self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu


def peak_memory_bytes() -> int:
    """Return the highest resident memory of this process so far, in bytes (getrusage: KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
