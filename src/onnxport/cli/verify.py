"""`onnxport verify`: check that a folder is intact, and with --against that it gives the outputs of its source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxport.cli.options import (
    Against,
    AllowPickle,
    AllowUnusedWeights,
    BaseModel,
    Dequantize,
    FolderOrGraph,
    Json,
    MemoryLimit,
    Quiet,
    Strict,
    StripPrefix,
    Task,
    TrustRemoteCode,
    Verbose,
)
from onnxport.cli.shell import Shell, shell_of

if TYPE_CHECKING:
    from onnxport.artifact.results import VerifiedFolder


def verify(
    context: typer.Context,
    folder: FolderOrGraph,
    against: Against = None,
    task: Task = None,
    strict: Strict = False,
    allow_unused_weights: AllowUnusedWeights = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustRemoteCode = False,
    base_model: BaseModel = None,
    strip_prefix: StripPrefix = None,
    dequantize: Dequantize = False,
    memory_limit: MemoryLimit = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Check a folder, and compare its graphs with the source model.

    Every file must have its recorded sha256, and every graph must be sound and run in ONNX Runtime. With
    --against, the source model is run again, and the outputs are compared. The exit code is 1 if they differ.
    """
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose, memory_limit=memory_limit)
    from onnxport.api.verify import verify as verify_folder

    loading: dict[str, Any] = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    optional = {
        "allow_unused_weights": allow_unused_weights, "base_model": base_model, "strip_prefix": strip_prefix,
        "dequantize": dequantize,
    }  # fmt: skip
    loading |= {name: value for name, value in optional.items() if value}
    with shell.working() as reporter:
        if strict:
            _list(shell, folder)
        result = verify_folder(folder, against, task=task, strict=strict, reporter=reporter, **loading)
    if shell.json:
        shell.write_json(result)
    else:
        _show(shell, result)
    return 0 if result.ok else 1


def _list(shell: Shell, path: Path) -> None:
    """A line for each finding; with --json the error document names them."""
    from onnxport.api.verify import findings

    found = findings(path)
    if not shell.json:
        for finding in found:
            shell.write(str(finding))
        shell.write(f"{len(found)} findings")


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
