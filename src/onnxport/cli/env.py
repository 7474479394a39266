"""`onnxport env`: create, remove and list managed Python environments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from onnxport.cli.options import EnvironmentName, Json, Quiet, Verbose
from onnxport.cli.shell import Shell, shell_of

if TYPE_CHECKING:
    from onnxport.environments import Status

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def env(context: typer.Context) -> None:
    """Create, remove and list managed environments.

    They are Python environments for frameworks that cannot be installed beside transformers 5.
    """
    if context.invoked_subcommand is None:
        shell_of(context).write(context.get_help())


@app.command("create")
def create(
    context: typer.Context, name: EnvironmentName, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> int:
    """Create an environment.

    Downloads its pinned packages, and installs them with pip.
    """
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    from onnxport import environments

    definition = environments.find_definition(name)
    shell.interrupted = lambda: f"interrupted: `onnxport env create {name}` continues"
    with shell.working() as reporter:
        status = environments.create(definition, reporter)
    _show(shell, status)
    return 0


@app.command("remove")
def remove(
    context: typer.Context, name: EnvironmentName, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> int:
    """Delete an environment."""
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    from onnxport import environments

    definition = environments.find_definition(name)
    shell.interrupted = lambda: f"interrupted: `onnxport env remove {name}` removes the rest"
    with shell.working() as reporter:
        status = environments.remove(definition, reporter)
    _show(shell, environments.status_of(definition), freed_bytes=status.size_bytes)
    return 0


@app.command("list")
def list_environments(context: typer.Context, json: Json = False) -> int:
    """List the environments: purpose, state and size on disk."""
    shell = shell_of(context, json=json)
    from onnxport.environments import statuses

    found = statuses()
    if json:
        shell.write_json([_document(status) for status in found])
        return 0
    from onnxport.cli.tables import environments_table

    shell.write_table(environments_table(found))
    return 0


def _show(shell: Shell, status: Status, **more: Any) -> None:
    if shell.json:
        shell.write_json(_document(status) | more)
    else:
        shell.write(str(status.path))


def _document(status: Status) -> dict[str, Any]:
    return {
        "name": status.name,
        "purpose": status.purpose,
        "state": status.state.value,
        "python": status.python,
        "size_bytes": status.size_bytes,
        "path": status.path,
    }
