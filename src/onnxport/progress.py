"""How steps tell what they do. The command line draws them; the library default is silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """A running step; `done` sets the short result shown at the end of its line."""

    def done(self, summary: str) -> None: ...


class Reporter(Protocol):
    """Shows steps and notes. Implementations must not write to stdout."""

    def step(self, title: str) -> AbstractContextManager[Step]: ...

    def note(self, text: str) -> None: ...


class _SilentStep:
    def done(self, summary: str) -> None:
        pass


class Silent:
    """The reporter of library calls: says nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        yield _SilentStep()

    def note(self, text: str) -> None:
        pass
