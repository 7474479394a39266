"""How steps report progress. The command line shows it; library calls are silent by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """A running step."""

    def done(self, summary: str) -> None:
        """Set the short result that is shown at the end of the step's line."""

    def advance(self, bytes_done: int, total: int) -> None:
        """Report progress; can be called for every block that is read or written."""


class Reporter(Protocol):
    """Shows steps and notes. Implementations must not write to stdout."""

    def step(self, title: str) -> AbstractContextManager[Step]:
        """Show a step while the block runs."""

    def note(self, text: str) -> None:
        """Show a note."""


def counted(step: Step, total: int) -> Callable[[int], None]:
    """Return a function that reports the number of bytes of each block to `step`.

    Args:
        step: the running step.
        total: total number of bytes.
    """
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        step.advance(done, total)

    return report


class _SilentStep:
    def done(self, summary: str) -> None:
        pass

    def advance(self, bytes_done: int, total: int) -> None:
        pass


class Silent:
    """The reporter of library calls; it shows nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run the block without output."""
        yield _SilentStep()

    def note(self, text: str) -> None:
        """Show nothing."""
