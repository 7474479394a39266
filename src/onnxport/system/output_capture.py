"""Keep what other libraries print out of the way: banners, progress bars, log records, warnings.

What they printed is kept, so that an error can show it. There are two ways:

- `capture_process` is for a program that owns its process (the command line, a worker): everything is captured,
  whichever thread prints it.
- `capture_thread` is for library calls, whose process is the user's: only what the calling thread prints is
  captured. Other threads print, log and warn as before. It is used around the exporters' own calls alone.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

_process_buffer: io.StringIO | None = None
_thread_buffer: ContextVar[io.StringIO | None] = ContextVar("thread_buffer", default=None)


@contextmanager
def capture_process(buffer: io.StringIO | None = None) -> Iterator[io.StringIO]:
    """Capture all that this process prints, logs or warns, until the block ends. Nests.

    A console that must stay visible has to hold its own stream, taken before.

    Args:
        buffer: gets the text; a new one by default.

    Yields:
        The buffer.
    """
    global _process_buffer
    buffer = buffer if buffer is not None else io.StringIO()
    if _process_buffer is not None:
        yield buffer
        return
    _process_buffer = buffer
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(buffer), redirect_stderr(buffer):
            warnings.simplefilter("ignore")
            yield buffer
    finally:
        logging.disable(before)
        _process_buffer = None


@contextmanager
def capture_thread() -> Iterator[io.StringIO]:
    """Capture what the calling thread prints, logs (up to ERROR) or warns, until the block ends. Nests.

    Safe in several threads at once: `sys.stdout`, `sys.stderr`, log handlers and `warnings.showwarning` are
    exchanged once, for pieces that ask which thread is writing, and put back when the last block ends.

    Yields:
        The buffer with the text; inside `capture_process`, which captures it anyway, that one's.
    """
    if _process_buffer is not None:
        yield _process_buffer
        return
    buffer = io.StringIO()
    _redirection.enter()
    token = _thread_buffer.set(buffer)
    try:
        yield buffer
    finally:
        _thread_buffer.reset(token)
        _redirection.leave()


class _Stream(io.TextIOBase):
    """Writes to the buffer of the thread that writes, or to the original stream where it has none."""

    def __init__(self, original: TextIO) -> None:
        self.original = original

    def write(self, text: str) -> int:
        return (_thread_buffer.get() or self.original).write(text)

    def flush(self) -> None:
        (_thread_buffer.get() or self.original).flush()

    def isatty(self) -> bool:
        return _thread_buffer.get() is None and self.original.isatty()

    def fileno(self) -> int:
        return self.original.fileno()

    def __getattr__(self, name: str) -> Any:  # encoding, buffer, and what else a library asks for
        return getattr(self.original, name)


class _Filter(logging.Filter):
    """Keeps a handler from records of threads that are captured; what is worse than an error passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _thread_buffer.get() is None or record.levelno > logging.ERROR


class _Redirection:
    """The exchange of the process's streams and handlers, counted: the first block makes it, the last undoes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._filter = _Filter()
        self._handlers: list[logging.Handler] = []
        self._streams: tuple[_Stream, _Stream] | None = None
        self._showwarning: Any = None  # as it was before
        self._ours: Any = None

    def enter(self) -> None:
        with self._lock:
            self._blocks += 1
            if self._blocks > 1:
                return
            self._streams = _Stream(sys.stdout), _Stream(sys.stderr)
            sys.stdout, sys.stderr = self._streams
            self._handlers = list(_handlers())
            for handler in self._handlers:
                handler.addFilter(self._filter)
            original = self._showwarning = warnings.showwarning

            def showwarning(*arguments: Any, **keywords: Any) -> None:
                if _thread_buffer.get() is None:
                    original(*arguments, **keywords)

            warnings.showwarning = self._ours = showwarning

    def leave(self) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks or self._streams is None:
                return
            # Somebody else may have exchanged them meanwhile; theirs stays.
            if sys.stdout is self._streams[0]:
                sys.stdout = self._streams[0].original
            if sys.stderr is self._streams[1]:
                sys.stderr = self._streams[1].original
            for handler in self._handlers:
                handler.removeFilter(self._filter)
            if warnings.showwarning is self._ours:
                warnings.showwarning = self._showwarning
            self._streams, self._handlers = None, []


def _handlers() -> Iterator[logging.Handler]:
    """All handlers that there are. Those made later, inside a block, write to the exchanged streams."""
    loggers = [
        logging.root,
        *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)),
    ]
    for logger in loggers:
        yield from logger.handlers
    if logging.lastResort is not None:
        yield logging.lastResort


_redirection = _Redirection()
