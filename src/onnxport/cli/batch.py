"""`onnxport batch`: convert many models."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from onnxport.cli import options
from onnxport.cli.options import Json, MemoryLimit, Quiet, Verbose
from onnxport.cli.shell import Shell, shell_of
from onnxport.errors import UsageError

if TYPE_CHECKING:
    from onnxport.api.batch import Batch
    from onnxport.batch.records import Record

_FAIL_ON = ("any", "mismatch", "never")


def batch(
    context: typer.Context,
    jobs: options.Jobs,
    output: options.BatchOutput,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    timeout: options.Timeout = None,
    memory_limit: MemoryLimit = None,
    attempts: options.Attempts = 2,
    address: options.RayAddress = None,
    fail_on: options.FailOn = "any",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Convert many models, each in a process of its own.

    Every model becomes a folder in OUTPUT, with a line in OUTPUT/batch.jsonl and a row in OUTPUT/batch.html. Started
    again, it does what is missing. Prints a line for each model.
    """
    from onnxport.api.batch import batch as run_batch
    from onnxport.batch.isolated import Limits

    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose, memory_limit=memory_limit)
    if fail_on not in _FAIL_ON:
        raise UsageError(f"--fail-on {fail_on} is unknown.", hint=f"Use {', '.join(_FAIL_ON)}.")
    limits = Limits(timeout, shell.memory_limit, attempts)
    shell.memory_limit = None  # of each job, not of this process
    shell.interrupted = lambda: f"interrupted: the same command continues; {output} has what is done"

    def told(record: Record) -> None:
        if not json:
            shell.write(_line(record))

    with shell.working():
        found = run_batch(
            jobs, output, engine=engine, workers=workers, limits=limits, address=address, told=told
        )  # fmt: skip
    if json:
        shell.write_json({"records": [asdict(one) for one in found.records], "skipped": found.skipped,
                          "seconds": found.seconds, "page": found.page})  # fmt: skip
    else:
        _summary(shell, found)
    return _exit_code(found, fail_on)


def _line(record: Record) -> str:
    parts = [f"{record.status.value:<13}", record.name]
    if record.ok:
        share = "" if record.error_share is None else f"error {record.error_share:.2g} of the tolerance, "
        parts.append(f"({record.task}, {share}{record.seconds:.1f} s)")
    else:
        parts.append(f"({record.message})")
    return " ".join(parts)


def _summary(shell: Shell, found: Batch) -> None:
    from onnxport.batch.records import counts

    parts = [f"{number} {status.value}" for status, number in counts(found.records).items()]
    skipped = f", {len(found.skipped)} of them before" if found.skipped else ""
    shell.tell(f"{', '.join(parts)}{skipped}; {found.seconds:.0f} s")


def _exit_code(found: Batch, fail_on: str) -> int:
    """0 all converted; 1 some differ from their source and nothing else is wrong; 2 some failed."""
    from onnxport.batch.records import Status

    statuses = {record.status for record in found.records} - {Status.CONVERTED}
    if fail_on == "never" or not statuses:
        return 0
    if statuses == {Status.MISMATCH}:
        return 1
    return 2 if fail_on == "any" else 1 if Status.MISMATCH in statuses else 0
