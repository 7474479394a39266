"""`onnxport target`: write the files of another run time."""

from __future__ import annotations

from pathlib import Path

import typer

from onnxport.cli.options import Component, Folder, Json, MemoryLimit, Quiet, TargetName, TargetOutput, Verbose
from onnxport.cli.shell import Shell, shell_of
from onnxport.errors import UsageError


def target(
    context: typer.Context,
    name: TargetName,
    folder: Folder,
    output: TargetOutput = None,
    component: Component = "model",
    memory_limit: MemoryLimit = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the files of another run time.

    genai adds them to the folder; transformers.js and triton need a second folder, OUTPUT. They are checked before they
    are written. Prints the path of the result.
    """
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose, memory_limit=memory_limit)
    file = write_target(shell, name, folder, component, output)
    if shell.json:
        shell.write_json({"path": file})
    else:
        shell.write(str(file))


def write_target(shell: Shell, name: str, folder: Path, component: str = "model", output: Path | None = None) -> Path:
    """Write the files of a target, as a step of the console.

    Returns:
        The file or folder that was written.

    Raises:
        OnnxPortError: as `targets.find_target` and the function that it returns.
    """
    from onnxport.targets import APART, checked_by, find_target

    write = find_target(name)
    if output is not None and name not in APART:
        raise UsageError(f"The target {name} writes into {folder} itself.", hint=f"Leave {output} out.")
    where = {"output": output} if name in APART else {}
    with shell.working() as reporter, reporter.step(f"Write for {name}") as line:
        file = write(folder, component=component, **where)
        line.done(checked_by(name, file))
    return file
