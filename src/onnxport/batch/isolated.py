"""Run one job in a process of its own, with a limit of time and of memory.

The process is forked from a server that has imported the framework once, so that a job does not pay for the imports and
still cannot touch another one. What it prints goes to a log file. Its children (managed environments, chat templates)
are in its process group and end with it.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from onnxport.batch.jobs import Job
from onnxport.batch.records import Record, Status

# Imported once, in the server that jobs are forked from.
_PRELOADED = ["onnxport.batch.preload"]
_POLL_SECONDS = 0.1
_MEASURE_SECONDS = 0.5
_EXIT_SECONDS = 10

# Converts a job into a folder below the given one and returns its record, without times.
Convert = Callable[[Job, Path], Record]


@dataclass(frozen=True)
class Limits:
    """Of one job.

    Attributes:
        seconds: wall time.
        memory_bytes: anonymous memory of its processes together.
        attempts: how often a job that crashed is started.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    attempts: int = 2


class Running:
    """A job in its process.

    Args:
        job: what to do.
        convert: the function, of a module that can be imported.
        folder: where it writes.
        log: file that receives what it prints.
        limits: of time and memory.
        cores: processors that it may use; None is all.
    """

    def __init__(
        self, job: Job, convert: Convert, folder: Path, log: Path, limits: Limits, cores: Sequence[int] | None = None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self.job, self.limits = job, limits
        self._receiver, sender = context.Pipe(duplex=False)
        self._started = time.monotonic()
        self._process: BaseProcess = context.Process(
            target=_work, args=(sender, convert, job, folder, log, cores), name=job.name, daemon=False
        )
        self._process.start()
        sender.close()
        self._found: Record | None = None
        self._measured = self._started

    def poll(self) -> Record | None:
        """The record if the job has ended, or must end because it is over a limit; else None."""
        with suppress(EOFError, OSError):
            if self._receiver.poll():
                self._found = self._receiver.recv()
        seconds = time.monotonic() - self._started
        if self._found is not None or not self._process.is_alive():
            # Threads and exit handlers of the frameworks have nothing to do any more, and may hang.
            self._process.join(_EXIT_SECONDS)
            return self._ended(self._found, seconds)
        if self.limits.seconds is not None and seconds > self.limits.seconds:
            self.kill()
            return self._failure(Status.TIMED_OUT, f"It took longer than {self.limits.seconds:g} s.", seconds)
        most = self.limits.memory_bytes
        if most is not None and (taken := self._memory()) > most:
            self.kill()
            message = f"It took {taken / 2**30:.1f} GiB of memory, and {most / 2**30:.1f} GiB are allowed."
            return self._failure(Status.OUT_OF_MEMORY, message, seconds)
        return None

    def wait(self) -> Record:
        """Poll until the job has ended."""
        while (record := self.poll()) is None:
            time.sleep(_POLL_SECONDS)
        return record

    def kill(self) -> None:
        """End the job and all processes that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()  # where it did not have a group yet
        self._process.join()

    def _memory(self) -> int:
        """Anonymous memory of the job's processes in bytes, measured every half second."""
        if time.monotonic() - self._measured < _MEASURE_SECONDS:
            return 0
        self._measured = time.monotonic()
        return _group_memory(self._process.pid or 0)

    def _ended(self, found: Record | None, seconds: float) -> Record:
        code = self._process.exitcode or 0
        self.kill()  # what the job left running ends with it
        if found is not None:
            return replace(found, seconds=seconds)
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return self._failure(Status.CRASHED, f"Its process ended {how}, without a result.", seconds)

    def _failure(self, status: Status, message: str, seconds: float) -> Record:
        return Record(self.job.name, self.job.model, self.job.digest, status, message=message, seconds=seconds)


def _work(sender: Connection, convert: Convert, job: Job, folder: Path, log: Path, cores: Sequence[int] | None) -> None:
    """In the process: a group of its own, output into the log, and the record through the pipe."""
    os.setsid()
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    before = _cpu_seconds()
    record = convert(job, folder)
    sys.stdout.flush()
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = max(one.ru_maxrss for one in usage) * 1024
    sender.send(replace(record, cpu_seconds=_cpu_seconds() - before, peak_memory_bytes=peak))
    sender.close()


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def _group_memory(group: int) -> int:
    """Anonymous memory of the processes of a group in bytes; 0 where /proc does not tell."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # The fields after the name, which may hold spaces: state, parent, group.
            if int((entry / "stat").read_text().rpartition(")")[2].split()[2]) != group:
                continue
            lines = (entry / "status").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return total
