"""`onnxport tasks`: list the tasks, or the model types that were tried."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Any

import typer

from onnxport.cli.options import Json, Models
from onnxport.cli.shell import shell_of
from onnxport.tasks import TASKS


def tasks(context: typer.Context, models: Models = False, json: Json = False) -> int:
    """List the tasks, their inputs, and an example for each."""
    shell = shell_of(context, json=json)
    if models:
        found = tried_models()
        if json:
            shell.write_json(found)
            return 0
        from onnxport.cli.tables import models_table

        shell.write_table(models_table(found["rows"], found["pairs"]))
        return 0
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


def tried_models() -> dict[str, Any]:
    """What became of the model types that were converted with this version: `benchmarks/coverage` writes it."""
    found: dict[str, Any] = json_format.loads(Path(__file__).with_name("coverage.json").read_text(encoding="utf-8"))
    return found
