"""Run jobs on a Ray cluster: an existing one, or one that is started on this machine.

Each job is a Ray task with its processors and memory, and within it a process of its own with the limits. Ray starts a
task again on another node if its node is lost; what it had written is written anew, so nothing is lost and nothing is
there twice. All nodes see the work folder (or each its own, if the output is a URL).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxport.batch.isolated import Convert, Limits, Running
from onnxport.batch.jobs import Job
from onnxport.batch.local import expected_memory
from onnxport.batch.place import LOGS, Place, open_place
from onnxport.batch.records import REPEATABLE, Record, Status
from onnxport.errors import MissingDependencyError, OnnxPortError

# How often Ray starts a task again whose node or worker was lost.
_LOST_RETRIES = 5


def run_ray(
    jobs: Sequence[Job], convert: Convert, output: str, work: Path, limits: Limits, address: str | None = None
) -> Iterator[Record]:
    """Run every job as a Ray task, and yield its record when it ends; the task itself publishes its folder.

    Args:
        convert: what a job's process does; see `isolated.Convert`.
        output: folder on a file system that all nodes share, or a URL.
        work: as in `Place`; a relative one is on each node its own.
        address: of a cluster ("auto", "ray://host:10001"); None starts one on this machine, or joins the one of
            RAY_ADDRESS.

    Raises:
        MissingDependencyError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingDependencyError("--engine ray needs Ray.", hint='pip install "onnxport[ray]"') from None
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    remote: Any = ray.remote(max_retries=_LOST_RETRIES)(_task)
    try:
        pending = {
            remote.options(num_cpus=1, memory=expected_memory(job)).remote(job, convert, output, work, limits): job
            for job in jobs
        }
        while pending:
            for done in ray.wait(list(pending), num_returns=1)[0]:
                job = pending.pop(done)
                try:
                    yield ray.get(done)
                except Exception as error:  # Ray's errors: a node lost too often, a task that cannot be scheduled
                    message = f"Ray could not run it: {' '.join(str(error).split())[:200]}."
                    yield Record(job.name, job.model, job.digest, Status.CRASHED, message=message)
    finally:
        if started:
            ray.shutdown()


def _task(job: Job, convert: Convert, output: str, work: Path, limits: Limits) -> Record:
    """On a node: run the job in a process of its own, and publish what it made."""
    place = open_place(output, work)
    (place.work / LOGS).mkdir(parents=True, exist_ok=True)
    record = Record(job.name, job.model, job.digest, Status.CRASHED)
    for attempt in range(1, limits.attempts + 1):
        running = Running(job, convert, place.work / job.name, place.work / LOGS / f"{job.name}.log", limits)
        try:
            record = replace(running.wait(), attempts=attempt)
        finally:
            running.kill()
        if record.status not in REPEATABLE:
            break
    return published(place, job, record)


def published(place: Place, job: Job, record: Record) -> Record:
    """Publish what a job made, if it made a folder; a failure of that is the job's."""
    made = place.work / job.name
    if not (made / job.name).is_dir():
        return record
    try:
        place.publish(job.name, made)
    except (OSError, OnnxPortError) as error:
        return replace(record, status=Status.FAILED, message=f"It cannot be published: {error}.")
    return record
