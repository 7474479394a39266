"""A limit on the time of one call into a library that may never return: a loop without an end in a model.

C++ code cannot be interrupted, so the process is ended. That is done only in a process that belongs to onnxport, where
another one tells the user: the command line, or the worker of a managed environment. In a user's own process there is
no limit.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager

from onnxport.system.supervision import channel

# Seconds for one run at small sizes or one load; more for large weights, which are read from a disk.
_BASE_SECONDS = 900.0
_BYTES_PER_SECOND = 10e6
_VARIABLE = "ONNXPORT_TIME_LIMIT"
_STDERR = 2  # of a worker: the file that its caller reads back

_owned = False
_armed = False


def own_process() -> None:
    """Say that this process may be ended: another one waits for it."""
    global _owned
    _owned = True


@contextmanager
def time_limit(what: str, weight_bytes: int = 0) -> Iterator[None]:
    """End the process if the block takes too long. Of nested blocks the outer one counts.

    The limit is 15 minutes, and longer for large weights; the environment variable ONNXPORT_TIME_LIMIT sets another
    one in seconds, and 0 sets none.

    Args:
        what: what the block does, for the message: "run the source model".
        weight_bytes: size of the weights that it reads.
    """
    global _armed
    seconds = _seconds(weight_bytes)
    if _armed or not seconds or not (_owned or channel.is_open):
        yield
        return
    channel.state(f"at most {seconds:.0f} s to {what}; the variable {_VARIABLE} sets another limit")
    _armed = True
    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR if _owned else _nowhere())
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        _armed = False
        channel.state("")


def _seconds(weight_bytes: int) -> float:
    try:
        return max(0.0, float(os.environ[_VARIABLE]))
    except (KeyError, ValueError):
        return _BASE_SECONDS + weight_bytes / _BYTES_PER_SECOND


_sink: list[int] = []


def _nowhere() -> int:
    if not _sink:
        _sink.append(os.open(os.devnull, os.O_WRONLY))
    return _sink[0]
