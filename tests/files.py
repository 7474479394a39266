"""What lies in a folder, to see that nothing there changed."""

from __future__ import annotations

import hashlib
from pathlib import Path


def files_of(folder: Path) -> dict[Path, str]:
    """Path relative to the folder -> sha256, of every file."""
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}
