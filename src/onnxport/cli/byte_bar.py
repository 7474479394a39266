"""The live line of a step that moves bytes: a bar, bytes, speed and remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# A bar for less would be gone before it can be read.
SHOWN_FROM_BYTES = 100_000_000
# The speed is that of the last seconds: the first ones are fast, because the system caches writes.
_SPEED_SECONDS = 10.0
_UPDATE_SECONDS = 0.1  # rich keeps 1000 updates, which must reach back over _SPEED_SECONDS
_BAR_WIDTH = 24


class ByteBar:
    """A rich progress bar that may be updated for every block of bytes.

    Args:
        title: of the step.
        total: bytes of the step.
        console: where it is drawn.
        spinner: rich's name of the spinner.
        clock: seconds.
    """

    def __init__(
        self,
        title: str,
        total: int,
        console: Console,
        spinner: str = "dots",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.table import Column

        numbers = (DownloadColumn, TransferSpeedColumn, TimeRemainingColumn)
        self._bar = Progress(
            SpinnerColumn(spinner, style="cyan"),
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_WIDTH),
            *(column(table_column=Column(no_wrap=True)) for column in numbers),
            console=console,
            auto_refresh=False,
            speed_estimate_period=_SPEED_SECONDS,
            get_time=clock,
        )
        self._task = self._bar.add_task(title, total=total)
        self._clock, self._updated = clock, clock() - _UPDATE_SECONDS
        self._done, self._total = 0, total

    def advance(self, bytes_done: int, total: int) -> None:
        """`bytes_done` of `total` bytes are done, counted from the beginning of the step."""
        if bytes_done < self._done or total != self._total:  # the next part of a step with several
            self._bar.reset(self._task, total=total)
        elif bytes_done < total and self._clock() - self._updated < _UPDATE_SECONDS:
            return
        self._done, self._total, self._updated = bytes_done, total, self._clock()
        self._bar.update(self._task, completed=min(bytes_done, total))

    def renderable(self) -> RenderableType:
        """The line."""
        return self._bar.get_renderable()
