"""Raise KeyboardInterrupt for SIGINT, SIGTERM and SIGHUP, so that staged files are removed."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

# Not SIGQUIT, with which a user asks for a core dump.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupts:
    """While active, the signals raise KeyboardInterrupt in the main thread.

    A signal may get lost: an import of a C extension turns KeyboardInterrupt into an ImportError, and some libraries
    swallow it. So signals are recorded, and `check` raises KeyboardInterrupt again at the next step.
    """

    def __init__(self) -> None:
        self.caught = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                # A signal that the parent process ignores (nohup) stays ignored.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came in and was swallowed."""
        if self.caught:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.caught = True
        raise KeyboardInterrupt
