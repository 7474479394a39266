"""`onnxport env`: managed environments, made and removed only when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxport.cli.shell import Json, Quiet, Shell, Verbose, shell_of

if TYPE_CHECKING:
    from onnxport.environments import Status

Name = Annotated[str, typer.Argument(metavar="NAME", help="One of `onnxport env list`.")]

app = typer.Typer(rich_markup_mode=None, help="Environments for frameworks that cannot live beside transformers 5.")


@app.callback(invoke_without_command=True)
def env(context: typer.Context) -> None:
    """Environments for frameworks that cannot live beside transformers 5."""
    if context.invoked_subcommand is None:
        shell_of(context).write(context.get_help())


@app.command("create")
def create(
    context: typer.Context, name: Name, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> int:
    """Make an environment with pinned packages, or complete one. Downloads and installs them with pip."""
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    from onnxport import environments

    definition = environments.find_definition(name)
    shell.interrupted = lambda: f"interrupted: `onnxport env create {name}` goes on from what is there"
    with shell.working() as reporter:
        status = environments.create(definition, reporter)
    _show(shell, status)
    return 0


@app.command("remove")
def remove(
    context: typer.Context, name: Name, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> int:
    """Delete an environment."""
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    from onnxport import environments

    definition = environments.find_definition(name)
    shell.interrupted = lambda: f"interrupted: what is left is removed by `onnxport env remove {name}`"
    with shell.working() as reporter:
        status = environments.remove(definition, reporter)
    _show(shell, environments.status_of(definition), freed_bytes=status.size_bytes)
    return 0


@app.command("list")
def list_environments(context: typer.Context, json: Json = False) -> int:
    """List the environments: what they are for, whether they are whole, and what they take on disk."""
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
