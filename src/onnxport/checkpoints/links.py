"""Links in a checkpoint: what is read or copied must lie in the checkpoint, or be a blob of its repository.

The hub's cache keeps a model as `models--NAME/snapshots/REVISION/FILE`, which are links to `models--NAME/blobs/HASH`.
Any other link out of a checkpoint would let whoever made it choose files of the user's that are read, and published
with the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from onnxport.errors import UntrustedCheckpointError

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
# Version control and download state: nothing reads them here.
_UNREAD = frozenset({".git", ".cache"})


def require_links_inside(folder: Path) -> None:
    """Refuse a checkpoint with links out of it.

    Args:
        folder: of the checkpoint; it may itself be a link.

    Raises:
        UntrustedCheckpointError: there is one.
        OSError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in _UNREAD]
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                require_inside(path, folder)


def require_inside(file: Path, folder: Path) -> None:
    """Refuse a file of a checkpoint that is a link out of it.

    Raises:
        UntrustedCheckpointError: it is.
    """
    if not is_inside(file, folder):
        raise UntrustedCheckpointError(
            f"{file.relative_to(folder)} in {folder} is a link out of the checkpoint. Nothing was read.",
            hint=f"If you trust it, copy the files themselves: cp -rL {folder} COPY",
        )


def is_inside(file: Path, folder: Path) -> bool:
    """Whether what is behind a path lies in `folder`, or in the blobs of the cached repository that it belongs to."""
    try:
        target = file.resolve(strict=True)
    except (OSError, RuntimeError):
        return True  # nothing, or a link to nothing or to itself: there is nothing to read
    return any(target.is_relative_to(place) for place in _places(folder))


def _places(folder: Path) -> tuple[Path, ...]:
    real = folder.resolve()
    cached = (inner.parent.parent / _BLOBS for inner in (real, *real.parents) if inner.parent.name == _SNAPSHOTS)
    return real, *cached
