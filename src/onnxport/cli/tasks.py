"""`onnxport tasks`: list the tasks."""

from __future__ import annotations

import typer

from onnxport.cli.options import Json
from onnxport.cli.shell import shell_of
from onnxport.tasks import TASKS


def tasks(context: typer.Context, json: Json = False) -> int:
    """List the tasks, their inputs, and an example for each."""
    shell = shell_of(context, json=json)
    if json:
        rows = [
            {
                "name": task.name,
                "aliases": task.aliases,
                "summary": task.summary,
                "inputs": task.kind,
                "outputs": task.outputs,
                "example": task.example,
            }
            for task in TASKS
        ]
        shell.write_json(rows)
        return 0
    from onnxport.cli.tables import tasks_table

    shell.write_table(tasks_table(TASKS))
    return 0
