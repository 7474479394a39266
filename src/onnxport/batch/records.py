"""What became of each job: one line of JSON a job, in `batch.jsonl`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

RECORDS_NAME = "batch.jsonl"


class Status(StrEnum):
    """How a job ended."""

    CONVERTED = "converted"
    MISMATCH = "mismatch"  # the outputs differ; written only with allow_mismatch
    FAILED = "failed"  # an error that names its cause
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"  # the process ended without a result


# A repetition may end in another way; an error that was reported will be the same again.
REPEATABLE = (Status.CRASHED,)


@dataclass(frozen=True)
class Record:
    """One job and its end.

    Attributes:
        name, model, digest: of the job.
        task, architecture: that were found.
        message, hint: of an error.
        cases: sets of inputs that were compared.
        error_share: the largest error as a share of its tolerance; at most 1 where the outputs agree.
        restrictions: axes that the graphs restrict, as text.
        size_bytes: of the folder.
        seconds, cpu_seconds: wall time, and time on processors.
        peak_memory_bytes: highest resident memory of its process.
        attempts: how often it was started.
    """

    name: str
    model: str
    digest: str
    status: Status
    task: str = ""
    architecture: str = ""
    message: str = ""
    hint: str = ""
    cases: int = 0
    error_share: float | None = None
    restrictions: tuple[str, ...] = ()
    size_bytes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    attempts: int = 1

    @property
    def ok(self) -> bool:
        """Whether the folder is there and right."""
        return self.status is Status.CONVERTED


def append_record(file: Path, record: Record) -> None:
    """Add a line, whole or not at all."""
    line = json.dumps(asdict(record)).encode() + b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_records(file: Path) -> dict[str, Record]:
    """The last record of every job, by name; {} where there is no file. Lines that a crash cut off are left out."""
    if not file.is_file():
        return {}
    known = {field.name for field in fields(Record)}
    found: dict[str, Record] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
            entry = {key: value for key, value in entry.items() if key in known}
            entry |= {"status": Status(entry["status"]), "restrictions": tuple(entry.get("restrictions", ()))}
            record = Record(**entry)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        found[record.name] = record
    return found


def counts(records: Iterable[Record]) -> dict[Status, int]:
    """How many jobs ended in each way; ways in which none ended are left out."""
    found = [record.status for record in records]
    return {status: found.count(status) for status in Status if status in found}
