"""The files of a folder and their sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from onnxport.artifact.manifest import MANIFEST_NAME, Manifest
from onnxport.artifact.manifest_json import check_relative_path, named_paths
from onnxport.errors import FolderError, OutputError

_LINK_HINT = "Copy the files themselves; when downloading, use a plain folder (local_dir=...), not a cache of links."


def walk_files(root: Path, *, hidden: bool = False) -> list[str]:
    """Sorted "/" separated paths of the files below `root`.

    Args:
        root: an existing folder.
        hidden: also those with a part that begins with "." (.git, .cache, .DS_Store): onnxport
            writes none, and tools that keep folders in order put theirs there.

    Raises:
        FolderError: a link or a special file, since what is behind it is not part of the folder.
        OSError: a folder cannot be read.
    """
    found: list[str] = []

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=fail):
        if not hidden:
            folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*folders, *files]:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if name.startswith(".") and not hidden:
                continue
            if path.is_symlink():
                raise FolderError(f"{relative!r} in {root} is a link, not a file.", hint=_LINK_HINT)
            if path.is_file():
                found.append(relative)
            elif not path.is_dir():
                raise FolderError(f"{relative!r} in {root} is neither a file nor a folder.", hint="Delete it.")
    return sorted(found)


def hash_files(root: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Path to sha256 (64 hex digits) of every file of the folder, sorted by path.

    The manifest, which holds these, and hidden files are left out.

    Args:
        root: the folder.
        known: path to sha256 of files that need not be read again: whoever wrote them hashed them
            on the way. Files that are not there are ignored.

    Raises:
        FolderError: there is a link or a special file in the folder.
        OSError: a file cannot be read.
    """
    known = known or {}
    return {path: known.get(path) or _sha256(root / path) for path in walk_files(root) if path != MANIFEST_NAME}


def require_unchanged(root: Path, written: Mapping[str, str]) -> dict[str, str]:
    """Read every file of a folder again, and compare it with what was written.

    Args:
        root: the folder, which is complete but for its manifest.
        written: path to sha256 of files, computed while or right after they were written.

    Returns:
        Path to sha256 of every file, as `hash_files` gives it.

    Raises:
        OutputError: names the first file that is not as it was written.
        OSError: a file cannot be read.
    """
    found = hash_files(root)
    for path, digest in written.items():
        if found.get(path) != digest:
            what = "is not as it was written" if path in found else "has disappeared since it was written"
            raise OutputError(
                f"{path} {what}: sha256 {found.get(path, 'of nothing')[:12]} instead of {digest[:12]}.",
                hint="Is the disk or the memory faulty, or did another program change the file? Run the command again.",
            )
    return found


def check_files(root: Path, manifest: Manifest) -> None:
    """Whether the folder holds exactly the files of its manifest.

    Raises:
        FolderError: lists what differs, is missing or is extra (hidden files do not count), or a
            path or link that leads out of the folder.
        OSError: a file cannot be read.
    """
    check_inside(root, manifest)
    found = hash_files(root)
    problems = [f"{path} is missing" for path in manifest.files if path not in found]
    problems += [f"{path} differs" for path, digest in manifest.files.items() if found.get(path, digest) != digest]
    problems += [f"{path} is not in the manifest" for path in found if path not in manifest.files]
    if problems:
        raise FolderError(
            f"{root} is not as onnxport wrote it: {'; '.join(sorted(problems))}.",
            hint="Copy or download it again, or convert again with `onnxport convert`.",
        )


def check_inside(root: Path, manifest: Manifest) -> None:
    """Whether every path that the manifest names stays in the folder, links included.

    Raises:
        FolderError: one does not.
    """
    real_root = root.resolve()
    for where, path in named_paths(manifest):
        check_relative_path(path, where)
        if not (root / path).resolve().is_relative_to(real_root):
            raise FolderError(f"{path!r} in {root} is a link that leads out of the folder.", hint=_LINK_HINT)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
