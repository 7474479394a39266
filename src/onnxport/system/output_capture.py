"""Capture the output of other libraries: banners, progress bars, log records, warnings.

The output is kept, so that an error can show it. There are two functions:

- `capture_process` is for a program that owns its process (the command line, a worker). It captures the output of all
  threads.
- `capture_thread` is for library calls in a user's process. It captures only the output of the calling thread; other
  threads print, log and warn as before. It is used around the calls of exporters only.
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
    """Capture all that this process prints, logs or warns inside the block. Blocks can be nested.

    A console that must stay visible has to keep its own stream, taken before the block.

    Args:
        buffer: receives the text; by default a new one.

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
    """Capture what the calling thread prints, logs (up to ERROR) or warns inside the block. Blocks can be nested.

    It is safe in several threads at once. `sys.stdout`, `sys.stderr`, log handlers and `warnings.showwarning` are
    replaced once by objects that look up the writing thread, and restored at the end of the last block.

    Yields:
        The buffer; inside of `capture_process`, the buffer of that block.
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
    """Writes to the buffer of the writing thread, or to the original stream if the thread has none."""

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

    def __getattr__(self, name: str) -> Any:  # encoding, buffer and other attributes
        return getattr(self.original, name)


class _Filter(logging.Filter):
    """Drops log records of captured threads, up to ERROR."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _thread_buffer.get() is None or record.levelno > logging.ERROR


class _Redirection:
    """Replaces streams and handlers of the process: the first block replaces them, the last one restores them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._filter = _Filter()
        self._handlers: list[logging.Handler] = []
        self._streams: tuple[_Stream, _Stream] | None = None
        self._showwarning: Any = None  # the original function
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
            # Another library may have replaced them in the meantime; its replacement stays.
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
    """Yield all log handlers. Handlers that are created inside a block write to the replaced streams."""
    loggers = [
        logging.root,
        *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)),
    ]
    for logger in loggers:
        yield from logger.handlers
    if logging.lastResort is not None:
        yield logging.lastResort


_redirection = _Redirection()
