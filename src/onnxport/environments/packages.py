"""Packages in an environment's folder: which ones pip finished, and forgetting the others.

pip takes a package for installed as soon as its metadata is there, also if it was stopped in the middle of it. But
the last thing that it does for a package is to put its own line, INSTALLER, into the list of files (RECORD). A
package without that line, or with a file that is not there or has another size, is installed again.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path


def site_packages(folder: Path) -> list[Path]:
    """The folders of the environment `folder` that hold packages."""
    return [
        path for path in (*folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages") if path.is_dir()
    ]


def installed(folder: Path) -> list[Path]:
    """The metadata folders of all packages in the environment `folder`."""
    return sorted(path for place in site_packages(folder) for path in place.glob("*.dist-info"))


def forget_unfinished(folder: Path) -> list[str]:
    """Delete the metadata of packages that are not whole, so that pip installs them again.

    Returns:
        The names of these metadata folders.
    """
    unfinished = [path for path in installed(folder) if not _is_whole(path)]
    for path in unfinished:
        shutil.rmtree(path)
    return [path.name for path in unfinished]


def _is_whole(metadata: Path) -> bool:
    try:
        with (metadata / "RECORD").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        if f"{metadata.name}/INSTALLER" not in {row[0].replace("\\", "/") for row in rows}:
            return False
        # Files without a size are those that are made from others.
        return all((metadata.parent / row[0]).stat().st_size == int(row[2]) for row in rows if len(row) > 2 and row[2])
    except (OSError, ValueError, csv.Error):
        return False
