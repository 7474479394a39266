"""Where managed environments are on disk.

    HOME/envs/NAME          the environment
    HOME/envs/.NAME.lock    held while it is made, removed or used

HOME is $ONNXPORT_HOME, or else what the platform calls the user's data folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOME_VARIABLE = "ONNXPORT_HOME"


def home() -> Path:
    """The folder that onnxport keeps data of its own in; it may not exist yet."""
    if own := os.environ.get(HOME_VARIABLE):
        return Path(own).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "onnxport"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "onnxport"
    # The XDG rules: a relative path is to be ignored.
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share") / "onnxport"


def folder_of(name: str) -> Path:
    """The folder of the environment `name`."""
    return home() / "envs" / name


def lock_file_of(name: str) -> Path:
    """The file that is locked while the environment `name` is made, removed or used."""
    return home() / "envs" / f".{name}.lock"


def python_of(folder: Path) -> Path:
    """The interpreter of the environment in `folder`."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def disk_bytes(folder: Path) -> int:
    """What `folder` takes on disk, as `du` counts it; 0 where it is not."""
    seen: set[tuple[int, int]] = set()
    total = 0
    folders = [folder]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            # Blocks have 512 bytes, whatever the file system's are.
            total += status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
    return total
