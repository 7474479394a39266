"""Staging folders: their names, the lock that tells living from dead, and what dead ones leave.

A staging folder stands beside its destination and is locked (flock on the folder itself) by the
process that writes it. The kernel drops the lock when the process ends, however it ends, so a
folder that can be locked is a leftover. File systems without such locks keep their leftovers.

Kinds, for a destination called NAME:
    .NAME.onnxport-PID-TOKEN   being written, or an old folder that was exchanged and not yet deleted
    .NAME.onnxport-old-TOKEN   an old folder set aside, where the system cannot exchange two folders
    .NAME.onnxport-kept-KEY    work that was stopped, and that the same work goes on from (`kept_beside`)
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onnxport.publishing.atomic_rename import PLAN_NAME, finish_plan, read_plan

try:
    import fcntl
except ImportError:  # not a Unix system: no locks, leftovers stay
    fcntl = None  # type: ignore[assignment]

_NO_LOCK = -1
_STAGING_NAME = re.compile(r"\..+\.onnxport-(\d+|old|kept)-[0-9a-f]{8}", re.DOTALL)


def is_staging_name(name: str) -> bool:
    """Whether a folder of this name belongs to onnxport and comes and goes by itself."""
    return _STAGING_NAME.fullmatch(name) is not None


def make_staging(destination: Path) -> tuple[Path, int]:
    """A new locked staging folder beside `destination`, whose parent exists.

    Returns:
        The folder, and the lock to give to `release`.

    Raises:
        OSError: the folder cannot be made.
    """
    while True:
        path = destination.parent / f"{_prefix(destination.name)}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        try:
            lock = _lock(path)
        except (BlockingIOError, FileNotFoundError):
            # Another process took it for a leftover in the instant before it was locked.
            continue
        except OSError:
            return path, _NO_LOCK
        if _is_same(path, lock):
            return path, lock
        release(lock)


@contextmanager
def scratch_beside(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` for work that is not published; what a killed process left of one is removed."""
    clean_leftovers(destination)
    path, lock = make_staging(destination)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        release(lock)


@contextmanager
def kept_beside(destination: Path, key: str) -> Iterator[Path]:
    """A folder for work that is not published, which finds what it had when it was stopped.

    It stays where the user stops the work, or the process is killed. It is removed when the work is done, fails, or
    begins anew with another key. Where another process has it, the work begins in a folder of its own.

    Args:
        destination: it stands beside it.
        key: of what the work starts from; 8 hexadecimal digits.

    Raises:
        OSError: it cannot be made.
    """
    path = destination.parent / f"{_kept_prefix(destination)}{key}"
    for other in destination.parent.glob(f"{glob.escape(_kept_prefix(destination))}*"):
        if other != path:
            _remove_unlocked(other)
    path.mkdir(exist_ok=True)
    try:
        lock = _lock(path)
    except BlockingIOError:
        with scratch_beside(destination) as own:
            yield own
        return
    except OSError:
        lock = _NO_LOCK
    try:
        yield path
    except Exception:
        shutil.rmtree(path, ignore_errors=True)
        raise
    else:
        shutil.rmtree(path, ignore_errors=True)
    finally:
        release(lock)


def _kept_prefix(destination: Path) -> str:
    return f"{_prefix(destination.name)}kept-"


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):
        lock = _lock(path)
        shutil.rmtree(path, ignore_errors=True)
        release(lock)


def aside_path(destination: Path) -> Path:
    """A free name beside `destination` for the folder that it replaces."""
    return destination.parent / f"{_prefix(destination.name)}old-{secrets.token_hex(4)}"


def lock_if_possible(path: Path) -> int:
    """A lock on the folder `path`; one that does nothing where there are no locks."""
    try:
        return _lock(path)
    except OSError:
        return _NO_LOCK


def release(lock: int) -> None:
    """Give a lock back."""
    if lock != _NO_LOCK:
        os.close(lock)


def clean_leftovers(destination: Path) -> None:
    """Finish or remove what dead processes left beside `destination`; never fails.

    An old folder that was set aside is put back if its replacement never came. A set of files that
    was partly moved into place is moved completely. All else is deleted.
    """
    try:
        entries = [entry for entry in destination.parent.iterdir() if entry.name.startswith(_prefix(destination.name))]
    except OSError:
        return
    for entry in entries:
        if not is_staging_name(entry.name) or entry.is_symlink() or not entry.is_dir():
            continue
        if entry.name.startswith(_kept_prefix(destination)):
            continue
        try:
            lock = _lock(entry)
        except OSError:
            continue  # alive, or not to be told
        try:
            _settle(entry, destination)
        finally:
            release(lock)


def discard(staging: Path, parent: Path) -> None:
    """Remove a staging folder of this process, or finish the move of its files if that has begun."""
    if (staging / PLAN_NAME).exists():
        plan = read_plan(staging)
        # Some files are in place already: the rest follows, for a mixture would be neither old nor new.
        if plan is not None and any(not (staging / name).exists() for name in plan.files):
            with suppress(OSError):
                finish_plan(staging, parent, plan)
    shutil.rmtree(staging, ignore_errors=True)


def _settle(entry: Path, destination: Path) -> None:
    if entry.name.startswith(f"{_prefix(destination.name)}old-") and not os.path.lexists(destination):
        with suppress(OSError):
            entry.rename(destination)
        return
    discard(entry, destination.parent)


def _prefix(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) > 180:
        # A name has 255 bytes at most: a long one is cut, and a digest keeps it apart from its like.
        name = encoded[:160].decode(errors="ignore") + "-" + hashlib.sha256(encoded).hexdigest()[:16]
    return f".{name}.onnxport-"


def _lock(path: Path) -> int:
    """Lock a folder.

    Raises:
        BlockingIOError: another process (or another part of this one) has it.
        OSError: it is gone, or there are no locks here.
    """
    if fcntl is None:
        raise OSError("no flock on this system")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_same(path: Path, lock: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(lock))
    return False
