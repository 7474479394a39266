"""One process at a time makes or removes an environment, and nobody does while it is used.

flock on a file beside the environment, as for staging folders: the kernel drops it when the last process that holds
the descriptor ends, however it ends. The descriptor is therefore handed on to pip and to the worker: one that
outlives its parent still keeps others away. Systems without flock go without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from onnxport.environments.places import lock_file_of
from onnxport.errors import ManagedEnvironmentError

try:
    import fcntl
except ImportError:  # not a Unix system
    fcntl = None  # type: ignore[assignment]


@contextmanager
def changing(name: str) -> Iterator[tuple[int, ...]]:
    """Hold the environment `name` alone. Its parent folder is made.

    Yields:
        The descriptors to hand on to processes that work on it.

    Raises:
        ManagedEnvironmentError: another process makes, removes or uses it.
        OSError: the lock file cannot be made.
    """
    file = lock_file_of(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield from _held(descriptor, name, exclusive=True)
    finally:
        os.close(descriptor)


@contextmanager
def using(name: str) -> Iterator[tuple[int, ...]]:
    """Hold the environment `name` together with others that use it.

    Yields:
        The descriptors to hand on to processes that work in it.

    Raises:
        ManagedEnvironmentError: another process makes or removes it.
    """
    try:
        # Only read: an environment may belong to somebody else, who shares it.
        descriptor = os.open(lock_file_of(name), os.O_RDONLY)
    except OSError:
        yield ()
        return
    try:
        yield from _held(descriptor, name, exclusive=False)
    finally:
        os.close(descriptor)


def _held(descriptor: int, name: str, *, exclusive: bool) -> Iterator[tuple[int, ...]]:
    if fcntl is None:
        yield ()
        return
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        what = "makes, removes or uses" if exclusive else "makes or removes"
        raise ManagedEnvironmentError(
            f"Another process {what} the environment {name} at this moment. Nothing was done.",
            hint="Wait until it is done. `onnxport env list` shows what there is.",
        ) from None
    except OSError:  # a file system without locks
        yield ()
        return
    yield (descriptor,)
