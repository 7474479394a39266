"""How far a step is that moves bytes: a bar, "1.2 / 9.8 GB, 410 MB/s, 21 s left"."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

# Less is done before a bar can be read.
SHOWN_FROM_BYTES = 100_000_000
# The speed is that of the last seconds: a disk's cache makes the first ones fast.
_WINDOW_SECONDS = 10.0
_SAMPLE_SECONDS = 0.1
_BAR_WIDTH = 24
_UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"]


class ByteProgress:
    """Bytes done of a total. `advance` is called by the worker, `renderable` by the thread that draws."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        # Seconds and bytes; the first one is what the speed is counted from.
        self._samples: deque[tuple[float, int]] = deque()

    def advance(self, bytes_done: int, total: int) -> None:
        """`bytes_done` of `total` bytes, counted from the beginning of the step."""
        now = time.monotonic()
        # A step of several parts begins again with each.
        if bytes_done < self.done or total != self.total:
            self._samples.clear()
        self.done, self.total = bytes_done, total
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, bytes_done))
            while now - self._samples[0][0] > _WINDOW_SECONDS and len(self._samples) > 2:
                self._samples.popleft()

    def renderable(self, title: Text) -> RenderableType | None:
        """`title` with the bar behind it; None when there is too little to move for a bar."""
        if self.total < SHOWN_FROM_BYTES:
            return None
        from rich.text import Text

        return _Line(title, self.done, self.total, Text(self.text(), style="dim"))

    def text(self) -> str:
        """The numbers: done and total in the unit of the total, speed and rest of time once they are known."""
        from rich.filesize import pick_unit_and_suffix

        unit, suffix = pick_unit_and_suffix(self.total, _UNITS, 1000)
        digits = 0 if unit == 1 else 1
        parts = [f"{min(self.done, self.total) / unit:.{digits}f} / {self.total / unit:.{digits}f} {suffix}"]
        if speed := self._speed():
            parts.append(f"{_short(speed)}/s")
            parts.append(f"{_duration(max(self.total - self.done, 0) / speed)} left")
        return ", ".join(parts)

    def _speed(self) -> float:
        """Bytes a second, 0 while it is not known."""
        samples = list(self._samples)
        if len(samples) < 2:
            return 0.0
        # Until now, not until the last sample: when nothing moves the speed goes down.
        seconds = time.monotonic() - samples[0][0]
        return (self.done - samples[0][1]) / seconds if seconds > 0 else 0.0


@dataclass(frozen=True)
class _Line:
    """Title, bar and numbers in one line; no bar where it would crowd out the others."""

    title: Text
    done: int
    total: int
    numbers: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self.title.cell_len + self.numbers.cell_len + _BAR_WIDTH + 2 > options.max_width:
            yield Text.assemble(self.title, "  ", self.numbers, no_wrap=True, overflow="ellipsis")
            return
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(self.total, min(self.done, self.total), width=_BAR_WIDTH)
        line.add_row(self.title, bar, self.numbers)
        yield line


def _short(count: float) -> str:
    """Bytes with three digits: 410 MB, 1.20 GB."""
    from rich.filesize import pick_unit_and_suffix

    # A little more, so that 999.9 MB are 1.00 GB.
    unit, suffix = pick_unit_and_suffix(int(count * 1.0005), _UNITS, 1000)
    value = count / unit
    digits = 0 if unit == 1 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {suffix}"


def _duration(seconds: float) -> str:
    """21 s, 3 min 20 s, 2 h 5 min."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
