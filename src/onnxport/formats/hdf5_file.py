"""Whether an HDF5 file is whole, from its first bytes. Standard library only."""

from __future__ import annotations

from pathlib import Path

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# By the version of the superblock: where the size of an address stands, and the first of the addresses, of which the
# third is that of the end of the file.
_PLACES = {0: (13, 24), 1: (13, 28), 2: (9, 12), 3: (9, 12)}
_END = 2


def hdf5_fault(path: Path) -> str | None:
    """What is wrong with a file that ought to be HDF5; None where nothing is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(128)
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights"
    if not start.startswith(SIGNATURE):
        return "is empty" if not size else "is no HDF5 file"
    if len(start) < 9 or start[8] not in _PLACES:
        return "is cut off" if len(start) < 9 else None
    width_at, first = _PLACES[start[8]]
    width = start[width_at] if len(start) > width_at else 0
    place = first + _END * width
    if len(start) < place + width:
        return "is cut off"
    end = int.from_bytes(start[place : place + width], "little")
    if end > size:
        return f"is cut off: {size} of {end} bytes are there"
    return None
