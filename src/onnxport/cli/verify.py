"""`onnxport verify`: whether a folder is whole, and with --against whether its numbers are the source's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxport.cli.shell import Json, Quiet, Shell, Verbose, shell_of

if TYPE_CHECKING:
    from onnxport.artifact.results import VerifiedFolder


def verify(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder that onnxport wrote, or an .onnx file.")],
    against: Annotated[
        str | None, typer.Option("--against", help="The source model: run both again and compare.", metavar="MODEL")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", "--pipeline", "-t", help="The task of an .onnx file; a folder knows its own."),
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read weights that are stored as pickle.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that the source brings along.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Check the files of a folder against their recorded sha256, and the graph against its source."""
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    from onnxport.api.verify import verify as verify_folder

    with shell.working() as reporter:
        result = verify_folder(
            folder,
            against,
            task=task,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
            reporter=reporter,
        )
    if shell.json:
        shell.write_json(result)
    else:
        _show(shell, result)
    return 0 if result.ok else 1


def _show(shell: Shell, result: VerifiedFolder) -> None:
    from onnxport.cli.tables import verification_table

    tables = [
        verification_table(name, verification)
        for name, verification in result.verifications.items()
        if verification is not None
    ]
    if tables:
        shell.write_table(*tables)
    checked = [f"{result.files_checked} files as recorded"] if result.files_checked else []
    shell.write(f"{result.path}: {', '.join(['ok' if result.ok else 'NOT ok', *checked, *result.notes])}")
