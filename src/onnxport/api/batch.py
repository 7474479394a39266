"""`batch`: many conversions, each in a process of its own, that can be interrupted and continued."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from onnxport.batch.isolated import Limits
from onnxport.batch.jobs import Job, read_jobs
from onnxport.batch.local import run_local
from onnxport.batch.page import PAGE_NAME, render_page
from onnxport.batch.place import Place, open_place
from onnxport.batch.ray_cluster import published, run_ray
from onnxport.batch.records import Record, Status
from onnxport.errors import OnnxPortError, UsageError, VerificationError, did_you_mean

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Batch:
    """What `batch` did.

    Attributes:
        records: of every job, in the order of the jobs; of those that were whole before, the old ones.
        skipped: names of jobs that were whole before.
        seconds: wall time.
        page: name of the HTML page beside the folders; None without Jinja2.
    """

    records: tuple[Record, ...]
    skipped: tuple[str, ...]
    seconds: float
    page: str | None

    @property
    def ok(self) -> bool:
        """Whether every job is converted."""
        return all(record.ok for record in self.records)


def batch(
    jobs: str | Path | Iterable[Job],
    output: str | Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    limits: Limits | None = None,
    address: str | None = None,
    told: Callable[[Record], None] | None = None,
) -> Batch:
    """Convert every job into `output/NAME`, with a line a job in `output/batch.jsonl` and a page `output/batch.html`.

    A job whose folder and record are there, and that asks for the same, is skipped; every other is done (again). A job
    that fails does not stop the others.

    Args:
        jobs: a file of jobs or a folder of checkpoints (`batch.jobs.read_jobs`), or jobs.
        output: a folder; or a URL that fsspec knows.
        engine: "local", or "ray": a task of Ray for each job.
        workers: jobs at once with "local"; by default one for each processor, as memory allows.
        limits: of each job; by default no limit of time and memory, and a second attempt after a crash.
        address: of a Ray cluster; see `batch.ray_cluster.run_ray`.
        told: called with every record when its job ends.

    Raises:
        UsageError: the jobs cannot be read, or no such engine.
        MissingDependencyError: Ray, PyYAML or fsspec is needed and not installed.
        OutputError: the output cannot be written.

    Example:
        batch("jobs.yaml", "zoo").ok
    """
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine {engine!r}.", hint=did_you_mean(engine, ENGINES))
    every = read_jobs(Path(jobs)) if isinstance(jobs, (str, Path)) else list(jobs)
    limits = limits or Limits()
    start = time.monotonic()
    place = open_place(str(output))
    before = place.records()
    whole = {job.name for job in every if _is_whole(place, job, before.get(job.name))}
    todo = [job for job in every if job.name not in whole]
    found = {name: before[name] for name in whole}
    for job in todo:
        shutil.rmtree(place.work / job.name, ignore_errors=True)
    for record in _run(place, todo, str(output), engine, workers, limits, address):
        place.add(record)
        found[record.name] = record
        if told is not None:
            told(record)
    records = tuple(found[job.name] for job in every)
    page = render_page(records, time.monotonic() - start)
    if page is not None:
        place.write(PAGE_NAME, page)
    skipped = tuple(job.name for job in every if job.name in whole)
    return Batch(records, skipped, time.monotonic() - start, PAGE_NAME if page is not None else None)


def _is_whole(place: Place, job: Job, record: Record | None) -> bool:
    return record is not None and record.ok and record.digest == job.digest and place.is_whole(job.name)


def _run(
    place: Place, jobs: list[Job], output: str, engine: str, workers: int | None, limits: Limits, address: str | None
) -> Iterator[Record]:
    """The records of published jobs."""
    if engine == "ray":
        work = place.work if "://" in output else place.work.resolve()
        where = output if "://" in output else str(Path(output).expanduser().resolve())
        yield from run_ray(jobs, convert_job, where, work, limits, address)
        return
    by_name = {job.name: job for job in jobs}
    for record in run_local(jobs, convert_job, place.work, limits, workers):
        yield published(place, by_name[record.name], record)


def convert_job(job: Job, folder: Path) -> Record:
    """Convert one job into `folder/NAME`, with its quantized graphs and targets; an error becomes a record."""
    from onnxport.api.convert import convert
    from onnxport.api.optimize import quantize
    from onnxport.targets import APART, find_target

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / job.name
    begun = Record(job.name, job.model, job.digest, Status.FAILED)
    try:
        options = dict(job.options)
        converted = convert(
            options.pop("framework", None), job.model, path, options.pop("opset", None),
            pipeline_name=options.pop("task", "auto"), **options,
        )  # fmt: skip
        for precision in job.precisions:
            quantize(path, precision)
        for target in job.targets:
            find_target(target)(path, **({"output": folder / f"{job.name}.{target}"} if target in APART else {}))
    except OnnxPortError as error:
        shutil.rmtree(path, ignore_errors=True)
        status = Status.MISMATCH if isinstance(error, VerificationError) else Status.FAILED
        return replace(begun, status=status, message=error.message, hint=error.hint or "")
    except Exception as error:  # the process of a job reports whatever happens in it
        shutil.rmtree(path, ignore_errors=True)
        return replace(begun, message=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    from onnxport.artifact.folder import open_folder

    manifest = open_folder(path).manifest
    checks = [c.verification for c in manifest.components if c.verification is not None]
    outputs = [o for check in checks for case in check.cases for o in case.outputs]
    shares = [o.judged_error / o.tolerance for o in outputs if o.tolerance]
    restrictions = dict.fromkeys(
        f"{r.axis} {r.rule}" for component in manifest.components for r in component.restrictions
    )
    return replace(
        begun,
        status=Status.CONVERTED if converted.passed else Status.MISMATCH,
        task=manifest.task,
        architecture=manifest.architecture,
        cases=sum(len(check.cases) for check in checks),
        error_share=max(shares, default=None),
        restrictions=tuple(restrictions),
        size_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    )
