"""Decide how many threads a run uses.

Idle threads of torch and ONNX Runtime busy-wait for each other: on a loaded machine, 64 tokens of 92M parameters took
torch 57 CPU seconds with two threads, and 4 with one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Parameters times input elements, a rough measure of work: about one second on one thread.
HEAVY_WORK = 2e10
# Several threads read weights above this size faster, even for a single token.
THREADED_BYTES = 2**31


def worth_threads(weight_bytes: int, work: float) -> bool:
    """Return whether more than one thread makes a run noticeably faster.

    Args:
        weight_bytes: size of the weights.
        work: parameters times elements of the input.
    """
    return weight_bytes >= THREADED_BYTES or work >= HEAVY_WORK


def usable_processors() -> int | None:
    """How many threads to use where the process may not use every processor; None where it may.

    Libraries start a thread for each core of the machine. In a container with a quota of two processors on a machine
    of 64, these threads wait for each other. Read: the affinity of the process, and the quotas of its control group
    (`cpu.max` of version 2, `cpu.cfs_quota_us` of version 1) and the groups around it.
    """
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    for quota in _quotas():
        allowed = min(allowed, max(1, math.ceil(quota)))
    return allowed if allowed < machine else None


def _quotas() -> Iterator[float]:
    """The processors that each control group around the process grants."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _GROUPS / "cpu" if controllers else _GROUPS
        group = root / inner.lstrip("/")
        # In a container the path can be that of the machine, which is not there: the root is the container's own.
        for folder in dict.fromkeys((group, *group.parents, root)):
            if folder.is_relative_to(root) and (quota := _quota(folder)) is not None:
                yield quota


def _quota(group: Path) -> float | None:
    """Processors that one group grants; None for no limit."""
    try:
        if (group / "cpu.max").is_file():
            limit, _, period = (group / "cpu.max").read_text(encoding="ascii").strip().partition(" ")
        else:
            limit = (group / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (group / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        found = float(limit) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return found if found > 0 else None
