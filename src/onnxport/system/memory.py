"""Limit how much memory an operation may take, and refuse what would take more. Standard library only.

A process that exceeds the memory of its container is killed without a message. onnxport estimates the need first and
raises an error instead. Anonymous memory is counted (`RssAnon` in /proc/self/status): the system can take back pages of
mapped files when memory is short.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from onnxport.errors import MemoryLimitError

# Share of free memory. The rest is for other processes and for errors of the estimate.
_SHARE = 0.8
# Libraries, traced graph and activations: 510 to 680 MiB were measured (`benchmarks/scale.py`).
BASE_BYTES = 700 * 2**20

# In an operation with a limit, a graph of this size or more runs over mapped weights.
MAPPED_FROM_BYTES = 2**28
# Bytes that a session holds for each byte of its weights: the file's content, and a copy packed for matrix products.
_PACKED_COPIES = 2

_limit: ContextVar[int | None] = ContextVar("limit", default=None)


@contextmanager
def memory_limit(limit: int | None = None) -> Iterator[None]:
    """Set the limit that `require_memory` and `may_pack` check inside the block.

    Args:
        limit: in bytes. None is the limit of the enclosing block, or 80 % of the free memory.
    """
    if limit is None:
        limit = _limit.get()
    if limit is None:
        free = available_bytes()
        limit = None if free is None else int(free * _SHARE)
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def current_limit() -> int | None:
    """The limit of the block around the call, in bytes; None outside of `memory_limit`."""
    return _limit.get()


def may_pack(weight_bytes: int) -> bool:
    """Return whether a session may keep its weights in memory, packed, instead of mapping their file.

    Mapped weights take almost no memory and load at once, but matrix products with many rows take about twice as long.
    Outside of `memory_limit`, where a user runs a model, weights are packed unless memory is short. Inside, only small
    weights that fit in addition to the current memory of the process are packed.

    Args:
        weight_bytes: size of the graph's files.
    """
    needed, limit = _PACKED_COPIES * weight_bytes, _limit.get()
    if limit is None:
        free = available_bytes()
        return free is None or needed <= free * _SHARE
    return weight_bytes < MAPPED_FROM_BYTES and (anonymous_bytes() or BASE_BYTES) + needed <= limit


def require_memory(needed: int, what: str, hint: str) -> None:
    """Check that `needed` bytes fit in the limit, in addition to what every conversion takes.

    Args:
        needed: bytes in memory at the same time.
        what: what needs them: "holding the weights".
        hint: what the user can do.

    Raises:
        MemoryLimitError: they do not fit.
    """
    limit = _limit.get()
    if limit is not None and BASE_BYTES + needed > limit:
        raise MemoryLimitError(
            f"{what} needs about {_size(BASE_BYTES + needed)} of memory, and the limit is {_size(limit)}.",
            hint=f"{hint} The limit is 80 % of the free memory, or --memory-limit.",
        )


def anonymous_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Return the memory of this process that the system cannot take back, in bytes; None if it is not reported.

    Args:
        status: the file to read.
    """
    for line in _lines(status):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return None


def resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return the memory of this process that is in RAM, mapped files included, in bytes; 0 if it is not reported."""
    for line in _lines(status):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that this process can still use, in bytes; None if the system does not report it.

    It is the free memory of the machine, or of the container if that has less.

    Args:
        root: folder that contains `proc` and `sys`.
    """
    known = [value for value in (_machine(root / "proc/meminfo"), _container(root)) if value is not None]
    return min(known, default=_by_sysconf() if root == Path("/") else None)


def _machine(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container(root: Path) -> int | None:
    """Return the free memory of this process's innermost memory cgroup and its parents, the smallest (v1 and v2)."""
    free: list[int] = []
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "file")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "cache")
        else:
            continue
        folder = base / path.strip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(base):
                break
            limit, used = _number(group / names[0]), _number(group / names[1])
            if limit is not None and used is not None and limit < 2**60:
                free.append(max(0, limit - used + _page_cache(group, names[2])))
    return min(free, default=None)


def _page_cache(group: Path, key: str) -> int:
    """Return the bytes of file pages that the cgroup is charged for; the system can take them back."""
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _by_sysconf() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _number(file: Path) -> int | None:
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
