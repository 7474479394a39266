"""`onnxport target`: a folder as another run time wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxport.cli.shell import Json, Quiet, Shell, Verbose, shell_of


def target(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TARGET", help="genai: onnxruntime-genai.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that onnxport wrote.")],
    component: Annotated[
        str, typer.Option("--component", "-c", help="Name of the graph in the folder, model_q4 for example.")
    ] = "model",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write what another run time needs into a folder; tried in that run time first."""
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    file = write_target(shell, name, folder, component)
    if shell.json:
        shell.write_json({"path": file})
    else:
        shell.write(str(file))


def write_target(shell: Shell, name: str, folder: Path, component: str = "model") -> Path:
    """The step, as a line of the console.

    Raises:
        OnnxPortError: as `targets.find_target` and what it gives.
    """
    from onnxport.targets import find_target

    write = find_target(name)
    with shell.working() as reporter, reporter.step(f"Write for {name}") as line:
        file = write(folder, component=component)
        line.done("the same tokens")
    return file
