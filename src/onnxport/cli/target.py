"""`onnxport target`: a folder as another run time wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxport.cli.shell import Json, Quiet, Shell, Verbose, shell_of
from onnxport.errors import UsageError


def target(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TARGET", help="genai: onnxruntime-genai; or transformers.js.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that onnxport wrote.")],
    output: Annotated[
        Path | None, typer.Argument(metavar="[OUTPUT]", help="transformers.js: the new folder.", show_default=False)
    ] = None,
    component: Annotated[
        str, typer.Option("--component", "-c", help="Name of the graph in the folder, model_q4 for example.")
    ] = "model",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write what another run time needs, into a folder or beside it; checked before it is published."""
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    file = write_target(shell, name, folder, component, output)
    if shell.json:
        shell.write_json({"path": file})
    else:
        shell.write(str(file))


def write_target(shell: Shell, name: str, folder: Path, component: str = "model", output: Path | None = None) -> Path:
    """The step, as a line of the console.

    Raises:
        OnnxPortError: as `targets.find_target` and what it gives.
    """
    from onnxport.targets import APART, find_target

    write = find_target(name)
    if output is not None and name not in APART:
        raise UsageError(f"The target {name} writes into the folder itself.", hint=f"Leave {output} out.")
    where = {"output": output} if name in APART else {}
    with shell.working() as reporter, reporter.step(f"Write for {name}") as line:
        file = write(folder, component=component, **where)
        line.done("the same tokens")
    return file
