"""A memory limit for one process: a control group (cgroup v1 or v2) that is made for it and removed after.

The limit counts the page cache of the files that the process reads and writes, which the kernel takes
back, and the memory that it holds, which it cannot take back where there is no swap.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@dataclass(frozen=True)
class Limit:
    """An existing group with a limit.

    Attributes:
        group: its folder in the control group file system.
        bytes: the limit.
        version: 1 or 2.
    """

    group: Path
    bytes: int
    version: int

    def enter(self) -> None:
        """Put the calling process into the group: for `before_exec` of `measure`."""
        (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def report(self) -> dict[str, int | None]:
        """Peak of what was charged, how often the limit was met, and processes that were killed for it.

        Linux 6.18 no longer counts the second in version 1: there it is 0 even where the peak is the limit.
        """
        if self.version == 1:
            return {
                "limit": self.bytes,
                "peak": _number(self.group / "memory.max_usage_in_bytes"),
                "limit_hits": _number(self.group / "memory.failcnt"),
                "killed": _field(self.group / "memory.oom_control", "oom_kill"),
            }
        return {
            "limit": self.bytes,
            "peak": _number(self.group / "memory.peak"),
            "limit_hits": _field(self.group / "memory.events", "max"),
            "killed": _field(self.group / "memory.events", "oom_kill"),
        }


def parse_size(text: str) -> int:
    """Bytes of "2GiB", "500MB" or "1000000".

    Raises:
        ValueError: not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?)b?", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a size like 2GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


@contextmanager
def memory_limit(size: int) -> Iterator[Limit | None]:
    """A group with this limit, below ours if possible; None where none can be made."""
    limit = _make(size)
    try:
        yield limit
    finally:
        if limit is not None:
            _remove(limit.group)


def _make(size: int) -> Limit | None:
    name = f"onnxport-benchmark-{os.getpid()}"
    for version, parent in _parents():
        group = parent / name
        file = "memory.limit_in_bytes" if version == 1 else "memory.max"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(size))
        except OSError:
            _remove(group)
            continue
        # Memory must not move to swap instead; the files exist only where the kernel accounts for it.
        swap = ("memory.memsw.limit_in_bytes", size) if version == 1 else ("memory.swap.max", 0)
        with contextlib.suppress(OSError):
            if (group / swap[0]).exists():
                (group / swap[0]).write_text(str(swap[1]))
        return Limit(group, size, version)
    return None


def _parents() -> Iterator[tuple[int, Path]]:
    """Groups that a new one could lie in: our own, then those above; a v2 group that holds processes takes none."""
    own = {1: "/", 2: "/"}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                own[1] = path
            elif controllers == "":
                own[2] = path
    for version, mount in ((1, ROOT / "memory"), (2, ROOT)):
        if not (mount / "cgroup.procs").exists():
            continue
        ours = Path(own[version].lstrip("/"))
        for relative in (ours, *ours.parents):
            if ".." not in relative.parts and (mount / relative / "cgroup.procs").exists():
                yield version, mount / relative


def _remove(group: Path) -> None:
    """A group can go when its last process has been reaped, which the kernel may notice a moment later."""
    for _ in range(50):
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _field(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return int(values[name]) if name in values else None
