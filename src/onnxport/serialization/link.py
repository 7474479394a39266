"""A second name for a checkpoint's file instead of a copy of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from onnxport.errors import OutputError

try:
    import fcntl
except ImportError:  # not a Unix system: no reflinks
    fcntl = None  # type: ignore[assignment]

_FICLONE = 0x40049409  # linux/fs.h
# What systems say that cannot link these two places, as against a destination that cannot be written.
_IMPOSSIBLE = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EINVAL,
}


def link_file(source: Path, destination: Path) -> bool:
    """Have the bytes of `source` at `destination` too, without copying them.

    A reflink where the file system has them (XFS, Btrfs): two files that share
    their blocks, so that a later change of one does not reach the other. Else a hard link: one file
    with two names. ONNX Runtime reads both; `onnx.load` and onnx_ir refuse data files that have
    more than one name.

    Args:
        source: a file; links are followed.
        destination: the new name, in an existing folder.

    Returns:
        False if `destination` is that very file already; nothing was done.

    Raises:
        OutputError: the two are on different file systems, this one has no links, or there is
            another file at `destination`.
        OSError: the source cannot be read, or the destination cannot be written.
    """
    source = source.resolve(strict=True)
    if os.path.lexists(destination):
        if not destination.is_symlink() and destination.samefile(source):
            return False
        raise OutputError(
            f"{destination} cannot be linked to {source}, because it exists.",
            hint="Choose another destination.",
        )
    if _reflink(source, destination):
        return True
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno not in _IMPOSSIBLE:
            raise
        why = (
            "they are on different file systems"
            if error.errno == errno.EXDEV
            else f"the system does not permit it ({error.strerror})"
        )
        raise OutputError(
            f"{source} cannot be linked into {destination.parent}: {why}.",
            hint="Choose a destination on the disk of the checkpoint, or leave --link-weights (link_weights=True) out.",
        ) from error
    return True


def _reflink(source: Path, destination: Path) -> bool:
    """Whether the file system could clone the file; if not, there is none at `destination`."""
    if fcntl is None:
        return False
    with source.open("rb") as old:
        created = False
        try:
            with destination.open("xb") as new:
                created = True
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            return True
        except BaseException as error:
            if created:
                destination.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in _IMPOSSIBLE:
                return False
            raise
