"""`onnxport tasks`: the table of tasks."""

from __future__ import annotations

import typer

from onnxport.cli.shell import Json, shell_of
from onnxport.tasks import TASKS


def tasks(context: typer.Context, json: Json = False) -> int:
    """List the tasks: names, what they do, and what goes in."""
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
