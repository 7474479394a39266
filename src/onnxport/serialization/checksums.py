"""One pass over a file: the checksum of each weight in it and, if wanted, the file's sha256.

Weights have a CRC-32: of what Python brings along it costs the least (4.2 GB/s where sha256 does
1.8), and it finds what goes wrong between two places in memory or on a disk. Against somebody who
means harm there is the sha256 of the whole file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ALGORITHM = "crc32"
BLOCK_BYTES = 4 * 2**20

Range = tuple[int, int]  # offset, length; in bytes


@dataclass(frozen=True)
class FileSums:
    """What one pass over a file found.

    Attributes:
        size: of the file, in bytes.
        ranges: checksum of each range; one that the file ends before is not there.
        sha256: of the file as 64 hex digits, or None if not asked for.
    """

    size: int
    ranges: dict[Range, str]
    sha256: str | None = None


def add(checksum: int, block: memoryview | bytes) -> int:
    """The checksum, 0 at first, of what it was the checksum of and `block`."""
    return zlib.crc32(block, checksum)


def text(checksum: int) -> str:
    """The checksum as it is stored: 8 hex digits."""
    return f"{checksum:08x}"


def sum_file(
    path: Path, ranges: Iterable[Range], *, sha256: bool = False, report: Callable[[int], None] | None = None
) -> FileSums:
    """Read the file `path` once, in blocks.

    Args:
        ranges: of the weights, in any order; they may overlap.
        sha256: also of the whole file.
        report: gets the number of bytes of every block after it was read.

    Raises:
        OSError: the file cannot be read.
    """
    pending = sorted(set(ranges), reverse=True)  # the next one is the last in the list
    active: list[Range] = []
    sums: dict[Range, int] = {}
    done: dict[Range, str] = {}
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK_BYTES))
    start = 0
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb", buffering=0))
        thread = stack.enter_context(ThreadPoolExecutor(1)) if sha256 else None
        while True:
            count = file.readinto(buffer)
            end = start + (count or 0)
            # An empty range is complete where it begins, even at the end of the file.
            while pending and (pending[-1][0] < end or pending[-1] == (end, 0)):
                active.append(pending.pop())
            hashing = thread.submit(digest.update, buffer[:count]) if thread and count else None
            for offset, length in active:
                part = buffer[max(offset - start, 0) : min(offset + length, end) - start] if length else b""
                sums[offset, length] = add(sums.get((offset, length), 0), part)
                if offset + length <= end:
                    done[offset, length] = text(sums.pop((offset, length)))
            active = [item for item in active if item not in done]
            if hashing is not None:
                hashing.result()
            if not count:
                break
            start = end
            if report is not None:
                report(count)
    return FileSums(start, done, digest.hexdigest() if sha256 else None)
