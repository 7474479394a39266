"""How steps tell what they do. The command line draws them; the library default is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """A running step; `done` sets the short result shown at the end of its line.

    `advance` may be called at every block of bytes that is read or written.
    """

    def done(self, summary: str) -> None: ...

    def advance(self, bytes_done: int, total: int) -> None: ...


class Reporter(Protocol):
    """Shows steps and notes. Implementations must not write to stdout."""

    def step(self, title: str) -> AbstractContextManager[Step]: ...

    def note(self, text: str) -> None: ...


def counted(step: Step, total: int) -> Callable[[int], None]:
    """What to call with the number of bytes of every block; tells `step` how many of `total` are done."""
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
    """The reporter of library calls: says nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        yield _SilentStep()

    def note(self, text: str) -> None:
        pass
