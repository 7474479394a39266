"""What the processes of a batch run in tests: cheap stand-ins for a conversion, which other processes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from onnxport.batch.jobs import Job
from onnxport.batch.records import Record, Status


def write_folder(job: Job, folder: Path) -> Record:
    """Take `job.model` seconds, then write a folder with a manifest. `starts` and `ends` have a line each."""
    _tell(folder, "starts", job)
    time.sleep(float(job.model))
    made = folder / job.name
    made.mkdir(parents=True, exist_ok=True)
    (made / "onnxport.json").write_text("{}")
    _tell(folder, "ends", job)
    return Record(job.name, job.model, job.digest, Status.CONVERTED)


def _tell(folder: Path, name: str, job: Job) -> None:
    with (folder.parent.parent / name).open("a") as lines:
        lines.write(f"{job.name} {time.time()}\n")


def misbehave(job: Job, folder: Path) -> Record:
    """Do what the job's model says: abort, sleep, take memory, leave a child; or crash once and then work."""
    match job.model:
        case "abort":
            os.abort()
        case "exit":
            os._exit(0)
        case "sleep":
            time.sleep(600)
        case "memory":
            held = [bytearray(b"x" * 2**20) for _ in range(600)]
            time.sleep(600)
            del held
        case "child":
            child = os.fork()
            if child == 0:
                time.sleep(600)
            (folder.parent / "child").write_text(str(child))
        case "once":
            mark = folder.parent / "crashed"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
    return write_folder(Job(job.name, "0"), folder)
