"""What one process costs: CPU and wall seconds, resident memory by kind, bytes read and written.

The parent samples /proc/PID/status (Linux); totals that the kernel keeps exactly (CPU, the peak of
resident memory, input and output) are read once, when the process has ended and is not yet reaped.
Processes that it starts itself are in the CPU seconds and in the peak (the largest of them), not in the rest.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL = 0.01
_STATUS = ("VmRSS", "RssAnon", "RssFile", "RssShmem")
_IO = ("rchar", "wchar", "read_bytes", "write_bytes")


@dataclass(frozen=True)
class Measured:
    """One process from its start to its end; sizes in bytes.

    Attributes:
        peak_rss: resident memory as the kernel recorded it, with pages of mapped files. It is never below
            that of the parent, some 20 MiB, of which the process is a copy until it becomes the command.
        peak_anon, peak_file: sampled, not at the same moment.
        io: rchar and wchar count bytes of read and write calls, read_bytes and write_bytes those that
            went to or come from the disk; a file that is mapped and cached appears in neither.
        exit_code: negative is the signal that ended it.
    """

    cpu_s: float
    wall_s: float
    peak_rss: int
    peak_anon: int
    peak_file: int
    io: dict[str, int]
    exit_code: int
    stdout: str
    stderr: str = field(repr=False)

    @property
    def failure(self) -> str | None:
        """Why it failed in one line, or None."""
        if self.exit_code == 0:
            return None
        if self.exit_code < 0:
            return f"ended by {signal.Signals(-self.exit_code).name}"
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        # Of chained exceptions the first is the cause; our own errors begin with the word.
        said = [line for line in lines if re.match(r"[\w.]*error: ", line, re.IGNORECASE)] or lines[-1:] or ["silent"]
        return f"exit {self.exit_code}: {said[0][:160].replace('|', '/')}"


def measure(
    command: list[str],
    *,
    environment: dict[str, str] | None = None,
    before_exec: Callable[[], None] | None = None,
    timeout: float = 3600,
) -> Measured:
    """Run a command and measure it.

    Args:
        environment: added to ours.
        before_exec: called in the new process, before it becomes the command.
        timeout: seconds, then it is killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env=os.environ | (environment or {}), preexec_fn=before_exec
        )
        try:
            peaks = _sample(process.pid, start + timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - start
        io = _numbers(Path(f"/proc/{process.pid}/io"), _IO)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Measured(
            cpu_s=usage.ru_utime + usage.ru_stime,
            wall_s=wall,
            peak_rss=usage.ru_maxrss * 1024,
            peak_anon=peaks.get("RssAnon", 0),
            peak_file=peaks.get("RssFile", 0) + peaks.get("RssShmem", 0),
            io=io,
            exit_code=process.returncode,
            stdout=out.read().decode(errors="replace"),
            stderr=err.read().decode(errors="replace"),
        )


def memory_now() -> dict[str, int]:
    """Resident memory of this process, in bytes."""
    status = _numbers(Path("/proc/self/status"), _STATUS, unit=1024)
    return {"rss": status["VmRSS"], "anon": status["RssAnon"]}


def flush(folder: Path) -> float:
    """Seconds until everything in a folder is on the disk; what a process that does not sync leaves to others."""
    start = time.perf_counter()
    for path in _files(folder):
        _with_descriptor(path, os.fsync)
    return time.perf_counter() - start


def forget(folder: Path) -> None:
    """Drop the files of a folder from the page cache, so that reading them is charged to the reader."""
    for path in _files(folder):
        _with_descriptor(path, os.fsync)
        _with_descriptor(path, lambda descriptor: os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _with_descriptor(path: Path, use: Callable[[int], object]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        use(descriptor)
    finally:
        os.close(descriptor)


def _sample(pid: int, deadline: float) -> dict[str, int]:
    """Highest value of each line of status until the process ends; it stays a zombie."""
    peaks: dict[str, int] = {}
    status = Path(f"/proc/{pid}/status")
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        for key, value in _numbers(status, _STATUS, unit=1024).items():
            peaks[key] = max(peaks.get(key, 0), value)
        if time.perf_counter() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(INTERVAL)
    return peaks


def _numbers(path: Path, keys: tuple[str, ...], unit: int = 1) -> dict[str, int]:
    """Lines `key: number ...` of a file in /proc; nothing if the process has gone."""
    found = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key in keys:
                found[key] = int(value.split()[0]) * unit
    return found
