"""What may be written where: checks made before the work starts, and what a failed write means."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxport.artifact.hashes import walk_files
from onnxport.artifact.manifest import MANIFEST_NAME
from onnxport.errors import FolderError, OnnxPortError, OutputError
from onnxport.publishing.leftovers import is_staging_name

_SMALL_FILES_BYTES = 2**20
# The device is the problem, wherever the write call was made.
_SPACE_ERRORS = {
    errno.ENOSPC: "No space left",
    errno.EDQUOT: "The disk quota is used up",
    errno.EFBIG: "The file system does not take files of this size",
}
# These are about one path, which may be one that is only read: they count if it is ours.
_PATH_ERRORS = {
    errno.EROFS: "The file system is read-only",
    errno.EACCES: "No permission to write",
    errno.EPERM: "No permission to write",
    errno.ENAMETOOLONG: "The name is too long",
}


def absolute(path: Path) -> Path:
    """`path` with its parents' links resolved, but not a link at its end; "." and ".." are resolved."""
    path = path.absolute()
    if path.name in ("", ".."):
        return path.resolve()
    return path.parent.resolve() / path.name


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Whether a folder can be put in place at `path`. Creates nothing.

    Absent and empty folders are fine. With `overwrite` a folder that onnxport wrote is fine too, if
    all its files are listed in its manifest: everything in it will be deleted.

    Raises:
        OutputError: says what is in the way and what to do.
    """
    path = absolute(path)
    _check_entry(path, "folder")
    check_parent(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise OutputError(f"{path} is a file, not a folder.", hint="Choose another destination.")
    if path.is_mount() or Path.cwd().is_relative_to(path):
        what = "a mount point" if path.is_mount() else "the working directory"
        raise OutputError(
            f"{path} is {what}, which cannot be replaced in one step.",
            hint=f"Choose a folder below it, such as {path / 'model'}.",
        )
    _list(path)
    if any(path.iterdir()):
        if not overwrite:
            raise OutputError(
                f"{path} is not empty.",
                hint="Choose another destination, or replace it with --overwrite (overwrite=True).",
            )
        _check_ours(path)


def check_file_destination(path: Path, *, overwrite: bool) -> None:
    """Whether a graph can be put in place at the file `path`. Creates nothing.

    The rule of the original script: the parent folder may be absent; if it exists it must be empty.
    With `overwrite` it may hold anything, and only the graph and its data files are replaced.

    Raises:
        OutputError: says what is in the way and what to do.
    """
    path = absolute(path)
    _check_entry(path, "file")
    check_parent(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder, not a file.", hint="Choose another name.")
    # Staging folders of other conversions into the same place come and go by themselves.
    if overwrite or not path.parent.is_dir():
        return
    if any(not is_staging_name(entry.name) for entry in _list(path.parent)):
        raise OutputError(
            f"The folder {path.parent} is not empty.",
            hint="Choose another folder, or write into it with --overwrite (overwrite=True).",
        )


def check_free_space(path: Path, weight_bytes: int, other_bytes: int = 0) -> None:
    """Whether a conversion fits on the file system that `path` is or will be on. Nothing is written.

    Args:
        path: the destination.
        weight_bytes: what will really be written of weights (`onnxfile.write_cost`); linked files are none.
        other_bytes: tokenizer, configs and other files. 1 MiB is added for graph, manifest and card.

    Raises:
        OutputError: they do not; says how much is missing.
    """
    needed_bytes = weight_bytes + other_bytes + _SMALL_FILES_BYTES
    free = shutil.disk_usage(_existing_ancestor(absolute(path))).free
    if free < needed_bytes:
        raise OutputError(
            f"No space for {path}: it needs about {_size(needed_bytes)}, and {_size(free)} are free.",
            hint=f"Free {_size(needed_bytes - free)}, or choose a destination on another disk.",
        )


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the OSErrors that mean "this destination cannot be written" into OutputError.

    Args:
        path: the destination, for the message. Errors about other paths pass unchanged, save those
            that name no path at all and say that a device is full.

    Raises:
        OutputError: full device or quota, read-only, not permitted.
    """
    try:
        yield
    except OSError as error:
        if (mapped := output_error(path, error)) is None:
            raise
        raise mapped from error


@contextmanager
def full_disk_told(file: Path) -> Iterator[None]:
    """Turn whatever a library raises while the disk of `file` is full into the OSError that says so.

    Libraries in C++ report a failed write as an error of their own, or read what they could not write as broken.

    Raises:
        OSError: ENOSPC, with the name of `file`.
    """
    try:
        yield
    except (OSError, OnnxPortError):
        raise
    except Exception as error:
        if shutil.disk_usage(file.parent).free < _SMALL_FILES_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
        raise


def output_error(path: Path, error: OSError) -> OutputError | None:
    """The OutputError that `error` means for the destination `path`, or None if it is about something else."""
    path = absolute(path)
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    # Staging folders stand beside the destination.
    ours = any(absolute(name).is_relative_to(path.parent) for name in named)
    if error.errno in _SPACE_ERRORS and (ours or not named):
        return OutputError(
            f"{_SPACE_ERRORS[error.errno]}: {path} could not be written.",
            hint="Free some space, or choose a destination on another disk.",
        )
    if error.errno in _PATH_ERRORS and ours:
        return OutputError(
            f"{_PATH_ERRORS[error.errno]}: {path} could not be written.", hint="Choose another destination."
        )
    return None


def check_parent(path: Path) -> None:
    """The nearest existing parent of `path` must be a folder that can be written.

    Raises:
        OutputError: it is not.
    """
    parent = _existing_ancestor(path.parent)
    if not parent.is_dir():
        raise OutputError(
            f"{path} cannot be created, because {parent} is a file.",
            hint="Choose another destination.",
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"{path} cannot be created, because {parent} is not writable.",
            hint="Choose another destination, or change the permissions.",
        )


def _check_entry(path: Path, what: str) -> None:
    """No link at the end of `path`, and a name that the file system takes."""
    try:
        link = path.is_symlink()
        path.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        # A parent that is a file is told better by check_parent.
        if isinstance(error, OSError) and error.errno == errno.ENOTDIR:
            return
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{str(path)!r} cannot be a {what}: {reason}.", hint="Choose another destination.") from error
    if link:
        raise OutputError(
            f"{path} is a symbolic link.",
            hint=f"Name the {what} itself: {path.resolve()}",
        )


def _check_ours(path: Path) -> None:
    """Refuse to replace what onnxport did not write: a stranger's folder, or a user's files in ours."""
    manifest = path / MANIFEST_NAME
    by_hand = "Choose another destination, or delete the folder yourself."
    if manifest.is_symlink() or not manifest.is_file():
        raise OutputError(
            f"{path} was not written by onnxport (it has no {MANIFEST_NAME}), so it is not replaced.",
            hint=by_hand,
        )
    try:
        # Not `from_json`: a manifest of another version is fine as long as it lists files.
        data = json.loads(manifest.read_text(encoding="utf-8"))
        listed = set(data["files"]) | {MANIFEST_NAME}
        present = set(walk_files(path, hidden=True))
    except (OSError, ValueError, TypeError, LookupError, RecursionError, FolderError) as error:
        raise OutputError(
            f"{path} is not replaced, because what belongs to it cannot be told: {error}.",
            hint=by_hand,
        ) from error
    if strangers := sorted(present - listed):
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        raise OutputError(
            f"{path} holds files that onnxport did not write: {', '.join(strangers[:3])}{more}.",
            hint="Move them away, or choose another destination.",
        )


def _existing_ancestor(path: Path) -> Path:
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _list(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}.", hint="Choose another destination.") from error


def _size(count: int) -> str:
    """Bytes for people: 12.3 GB, 4.0 MB, 17 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{max(count, 0) / 1e3:.0f} kB"
