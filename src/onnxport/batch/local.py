"""Run jobs on this machine: as many at once as processors and memory allow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxport.batch.isolated import Convert, Limits, Running
from onnxport.batch.jobs import Job
from onnxport.batch.place import LOGS
from onnxport.batch.records import REPEATABLE, Record
from onnxport.system.memory import BASE_BYTES, available_bytes

_POLL_SECONDS = 0.05
# Bytes of memory for each byte of a checkpoint: the weights, the packed copy of a session, and a reference.
_COPIES = 3
_SHARE = 0.8  # of the free memory
_WEIGHTS = (".safetensors", ".bin", ".h5", ".keras", ".gguf", ".pb", ".pt", ".data-00000-of-00001")


@dataclass
class _Slot:
    """A running job, what it is expected to take, and which share of the processors it has."""

    running: Running
    job: Job
    memory: int
    number: int
    attempt: int


def run_local(
    jobs: Sequence[Job], convert: Convert, work: Path, limits: Limits, workers: int | None = None
) -> Iterator[Record]:
    """Run every job, and yield its record when it ends; a job that crashed is started again.

    A job starts when a processor is free and the memory that it is expected to take fits beside the others'; one that
    alone needs more than there is runs alone.

    Args:
        convert: what a job's process does; see `isolated.Convert`.
        work: folder with a subfolder for each job, and the logs.
        workers: jobs at once; by default one for each processor.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    workers = max(1, min(workers or len(cores), len(jobs)))
    shares = [tuple(cores[number::workers]) or (cores[number % len(cores)],) for number in range(workers)]
    free = available_bytes()
    budget = None if free is None else int(free * _SHARE)
    waiting = [(job, 1) for job in jobs]
    slots: list[_Slot] = []
    (work / LOGS).mkdir(parents=True, exist_ok=True)
    try:
        while waiting or slots:
            if waiting and len(slots) < workers:
                index = _next(waiting, slots, budget)
                if index is not None:
                    job, attempt = waiting.pop(index)
                    number = min(set(range(workers)) - {slot.number for slot in slots})
                    log = work / LOGS / f"{job.name}.log"
                    running = Running(job, convert, work / job.name, log, limits, shares[number])
                    slots.append(_Slot(running, job, expected_memory(job), number, attempt))
                    continue
            ended = [(slot, record) for slot in slots if (record := slot.running.poll()) is not None]
            for slot, record in ended:
                slots.remove(slot)
                if record.status in REPEATABLE and slot.attempt < limits.attempts:
                    waiting.append((slot.job, slot.attempt + 1))
                else:
                    yield replace(record, attempts=slot.attempt)
            if not ended:
                time.sleep(_POLL_SECONDS)
    finally:
        for slot in slots:
            slot.running.kill()


def _next(waiting: Sequence[tuple[Job, int]], slots: Sequence[_Slot], budget: int | None) -> int | None:
    """The first job whose memory fits beside the running ones; None if it must wait."""
    if budget is None or not slots:
        return 0
    left = budget - sum(slot.memory for slot in slots)
    return next((index for index, (job, _) in enumerate(waiting) if expected_memory(job) <= left), None)


def expected_memory(job: Job) -> int:
    """Bytes that a job is expected to take: the libraries, and copies of the weights of a checkpoint on this disk."""
    path = Path(job.model)
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    weights = sum(file.stat().st_size for file in files if file.suffix in _WEIGHTS and file.is_file())
    return BASE_BYTES + _COPIES * weights
