"""Renames that change a folder or a set of files from old to new in one step, and survive crashes."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

PLAN_NAME = ".onnxport-plan"

# linux/fs.h and fcntl.h
_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
# What kernels and file systems say that do not have the flag.
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY}


def exchange(first: Path, second: Path) -> bool:
    """Swap two existing paths of one file system in one step.

    Returns:
        False if this system or file system cannot do it; then nothing has changed.

    Raises:
        OSError: it failed for another reason.
    """
    return _renameat2(first, second, _RENAME_EXCHANGE)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file to a name that nobody has.

    Raises:
        FileExistsError: `target` exists; it is unchanged.
        OSError: the rename failed.
    """
    if _renameat2(source, target, _RENAME_NOREPLACE):
        return
    # Not in one step, on systems that have no such call.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def sync_tree(root: Path) -> None:
    """Have everything below `root` on the disk before it is renamed, so that a power cut leaves no empty files."""
    for folder, _, files in os.walk(root):
        for path in (*(Path(folder, name) for name in files), Path(folder)):
            _sync(path)


def sync_rename(folder: Path) -> None:
    """Have the renames in `folder` on the disk. After them an error would only confuse: it is ignored."""
    with suppress(OSError):
        _sync(folder)


@dataclass(frozen=True)
class Plan:
    """How a set of staged files goes into place.

    It is written before the first move, so that a crash in between can be completed.

    Attributes:
        files: names in the staging folder, in the order of moving: data before the graph that names it.
        replace: existing files are replaced.
        remove: names in the destination folder that the new set does not have.
    """

    files: tuple[str, ...]
    replace: bool
    remove: tuple[str, ...] = ()


def write_plan(staging: Path, plan: Plan) -> None:
    """Put the plan into the staging folder, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    captured = staging / (PLAN_NAME + ".draft")
    captured.write_text(json.dumps(asdict(plan)), encoding="utf-8")
    _sync(captured)
    captured.rename(staging / PLAN_NAME)
    _sync(staging)


def read_plan(staging: Path) -> Plan | None:
    """The plan in a staging folder; None if there is none, or not a proper one."""
    try:
        data = json.loads((staging / PLAN_NAME).read_text(encoding="utf-8"))
        plan = Plan(tuple(data["files"]), bool(data["replace"]), tuple(data["remove"]))
        names = (*plan.files, *plan.remove)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return plan if all(isinstance(name, str) and Path(name).name == name for name in names) else None


def finish_plan(staging: Path, parent: Path, plan: Plan) -> None:
    """Move the files that are still staged into `parent`, then remove what the plan removes.

    Raises:
        FileExistsError: the plan does not replace, and a file is there. The files moved by this call
            are staged again.
        OSError: a move failed.
    """
    moved: list[str] = []
    move: Callable[[Path, Path], object] = os.replace if plan.replace else rename_new
    try:
        for name in plan.files:
            if (staging / name).exists():
                move(staging / name, parent / name)
                moved.append(name)
    except FileExistsError:
        for name in moved:
            (parent / name).rename(staging / name)
        raise
    for name in plan.remove:
        (parent / name).unlink(missing_ok=True)
    sync_rename(parent)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Linux's renameat2. False where the call or the flag does not exist."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if function is None:
        return False
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def _sync(path: Path) -> None:
    """Flush a file or a folder. Opened for reading only: copied files may be write-protected."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
