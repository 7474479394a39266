"""A parent process that tells how the command ended, whatever ended it.

Code of a library, or of a model that it loads, can end a process with any exit code: an operator that aborts, a call
of `_exit(0)`, a crash, the system when memory runs out. So the command runs in a child. It reports its exit code as its
last act; without that report it has failed. The parent starts before anything large is imported, and takes no time.

Where the system cannot fork (Windows), there is no parent.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP")
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_DONE, _STATE = b"done ", b"state "


class Channel:
    """The child's way to its parent; does nothing in a process without one."""

    def __init__(self) -> None:
        self.descriptor: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether a parent watches this process."""
        return self.descriptor is not None

    def state(self, text: str) -> None:
        """Say what this process does now, for the words about its end."""
        self._send(_STATE + " ".join(text.split()).encode("utf-8", "replace")[:500] + b"\n")

    def done(self, code: int) -> None:
        """Report the exit code."""
        self._send(_DONE + str(code).encode() + b"\n")

    def _send(self, line: bytes) -> None:
        if self.descriptor is not None:
            with suppress(OSError):
                os.write(self.descriptor, line)


channel = Channel()


def supervised(command: Callable[[], int], failed: Callable[[str], int]) -> int:
    """Run `command` in a child, and return what it returned.

    Args:
        command: the command; runs in the child.
        failed: called in the parent with words about a child that ended without a report; returns the exit code.
    """
    if not hasattr(os, "fork") or sys.platform == "win32":
        return command()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    parent = os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        channel.descriptor = writing
        _end_with(parent)
        code = command()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                if stream is not None:
                    stream.flush()
        channel.done(code)
        return code
    os.close(writing)
    status, said = _wait(child, reading)
    codes = [line for line in said if line.startswith(_DONE)]
    if codes:
        return int(codes[-1][len(_DONE) :])
    states = [line for line in said if line.startswith(_STATE)]
    doing = states[-1][len(_STATE) :].decode("utf-8", "replace") if states else ""
    return failed(_words(status, doing))


def _end_with(parent: int) -> None:
    """Have the system end this process with its parent, which may be killed."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(2)


def _wait(child: int, reading: int) -> tuple[int, list[bytes]]:
    """The child's wait status and the lines that it sent. Signals for this process go on to the child."""

    def forward(number: int, frame: FrameType | None) -> None:
        # The terminal sends Ctrl-C to both.
        if number != signal.SIGINT or not _in_foreground():
            with suppress(ProcessLookupError):
                os.kill(child, number)

    for name in _FORWARDED:
        number = getattr(signal, name)
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    said, ended = b"", 0
    while True:
        ready, _, _ = select.select([reading], [], [], 0.2)
        chunk = os.read(reading, 65536) if ready else None
        said = (said + (chunk or b""))[-(2**16) :]
        if chunk == b"":  # the child and all that it started have closed it
            _, ended = os.waitpid(child, 0)
            break
        pid, ended = os.waitpid(child, os.WNOHANG)
        if pid == child:
            while select.select([reading], [], [], 0)[0] and (chunk := os.read(reading, 65536)):
                said += chunk
            break
    return ended, said.splitlines()


def _in_foreground() -> bool:
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _words(status: int, doing: str) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            how = f"was ended by {signal.Signals(number).name}"
        except ValueError:
            how = f"was ended by signal {number}"
        if number == signal.SIGKILL:
            how += ", as systems do when memory runs out,"
    else:
        how = f"ended with exit code {os.WEXITSTATUS(status)}"
    return f"The process {how} before the command was done" + (f" ({doing})." if doing else ".")
