"""`onnxport convert`: from a checkpoint to a verified ONNX folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxport.cli.shell import Json, Quiet, Shell, Verbose, shell_of
from onnxport.cli.sizes import parse_size
from onnxport.errors import UsageError, nothing_written

if TYPE_CHECKING:
    from onnxport.artifact.results import Conversion


def convert(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] OUTPUT",
            help="The model (a folder, a .keras file, or a name on the hub), unless --model gives it; and where to "
            "write: a folder, or a path ending in .onnx for the graph alone.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model, instead of the first argument.")
    ] = None,
    task: Annotated[
        str, typer.Option("--task", "--pipeline", "-t", help="The task; auto reads it from the checkpoint.")
    ] = "auto",
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="The tokenizer, if it is not the model's.")
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option("--framework", help="pt or tf; found from the model if left out.", metavar="pt|tf"),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option("--opset", help="ONNX opset; the newest that ONNX Runtime runs at full speed if left out."),
    ] = None,
    use_external_format: Annotated[
        bool,
        typer.Option("--use-external-format", help="Put the weights beside the graph; beyond 2 GB that is always so."),
    ] = False,
    shard_size: Annotated[
        str | None,
        typer.Option(
            "--shard-size",
            help="Split the weights beside the graph into files of at most this size, such as 2GB.",
            metavar="SIZE",
        ),
    ] = None,
    link_weights: Annotated[
        bool,
        typer.Option(
            "--link-weights",
            help="Link weights that are stored as the graph needs them, instead of copying them. "
            "The checkpoint must then stay as it is.",
        ),
    ] = False,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", help="Memory that the conversion may use, such as 8GiB.", metavar="SIZE"),
    ] = None,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Also write an int8 graph, verified with its own tolerance.")
    ] = False,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Also write what another run time needs: genai (onnxruntime-genai)."),
    ] = None,
    signature: Annotated[
        str | None, typer.Option("--signature", help="The signature of a SavedModel; all of them if left out.")
    ] = None,
    check_loading: Annotated[
        bool, typer.Option("--check-loading", help="Load the graph in ONNX Runtime. Verification always does.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that onnxport wrote.")] = False,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Publish even if the numbers differ; the exit code is still 1.")
    ] = False,
    allow_missing_weights: Annotated[
        bool, typer.Option("--allow-missing-weights", help="Accept random numbers where the checkpoint has no weights.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read weights that are stored as pickle.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that the checkpoint brings along.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit of a model on the hub.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Convert a model, verify it, and write it as a folder.

    Nothing is written unless source and graph agree. Prints the path of the result.
    """
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    source, output = _model_and_output(paths, model)
    before = _stamp(output)

    def interrupted() -> str:
        return (
            "interrupted: nothing was written"
            if _stamp(output) == before
            else f"interrupted after {output} was written"
        )

    shell.interrupted = interrupted
    options: dict[str, Any] = {
        "allow_missing_weights": allow_missing_weights,
        "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
        "revision": revision,
    }
    if shard_size is not None:
        options["shard_size"] = parse_size(shard_size, "--shard-size")
    if signature is not None:
        options["signature"] = signature
    if link_weights:
        options["link_weights"] = True
    if memory_limit is not None:
        options["memory_limit"] = parse_size(memory_limit, "--memory-limit")
    if target is not None:
        _check_target(target, output)
    from onnxport.api.convert import convert as convert_model

    with shell.working() as reporter:
        conversion = convert_model(
            framework,
            source,
            output,
            opset,
            tokenizer,
            use_external_format,
            task,
            overwrite=overwrite,
            quantize=quantize,
            allow_mismatch=allow_mismatch,
            reporter=reporter,
            **options,
        )
    written = None
    if target is not None and conversion.passed:
        from onnxport.cli.target import write_target

        with nothing_written(f"{output} was written and verified; the files for {target} were not."):
            written = write_target(shell, target, output)
    _show(shell, conversion, written)
    return 0 if conversion.passed else 1


def _check_target(name: str, output: Path) -> None:
    """Before anything is converted.

    Raises:
        UsageError: no such target, or the output is no folder.
        MissingDependencyError: its run time is not installed.
    """
    from onnxport.targets import APART, find_target

    find_target(name)
    if name in APART:
        raise UsageError(
            f"A folder for {name} is another folder than the one that is converted.",
            hint=f"onnxport convert MODEL {output}, then onnxport target {name} {output} OTHER",
        )
    if output.suffix == ".onnx":
        raise UsageError(
            f"--target {name} needs a folder, and {output.name} is one file.",
            hint=f"Give a folder: {output.with_suffix('')}",
        )


def _model_and_output(paths: list[str], model: str | None) -> tuple[str, Path]:
    """What to convert, and where to.

    Raises:
        UsageError: one of the two is missing, or there is one too many.
    """
    given = paths if model is None else [model, *paths]
    if len(given) == 2 and all(given):
        return given[0], Path(given[1]).expanduser()
    usage = "onnxport convert MODEL OUTPUT, or onnxport convert --model MODEL OUTPUT"
    if len(given) < 2 or not all(given):
        raise UsageError(f"A model and an output are needed; only {', '.join(paths)!r} was given.", hint=usage)
    also = " besides --model" if model is not None else ""
    raise UsageError(f"Too many arguments{also}: {', '.join(paths)}.", hint=usage)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Tells one file or folder at `path` from another that is put in its place."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_dev


def _show(shell: Shell, conversion: Conversion, target: Path | None) -> None:
    from onnxport.cli.tables import verification_table

    for component in conversion.manifest.components:
        if component.verification is not None:
            shell.console.print(verification_table(component.name, component.verification))
    if not conversion.passed:
        shell.tell("warning: the numbers differ, and it was written because of --allow-mismatch")
    if shell.json:
        shell.write_json(_document(conversion) | ({"target": target} if target is not None else {}))
    else:
        shell.write(str(conversion.path))


def _document(conversion: Conversion) -> dict[str, Any]:
    manifest = conversion.manifest
    return {
        "path": conversion.path,
        "passed": conversion.passed,
        "task": manifest.task,
        "framework": manifest.framework,
        "source": manifest.source,
        "architecture": manifest.architecture,
        "versions": manifest.versions,
        "notes": manifest.notes,
        "components": manifest.components,  # axes, restrictions and the verification of each
        "files": conversion.files,
        "timings": conversion.timings,
        "cpu": conversion.cpu,
        "peak_memory_bytes": conversion.peak_memory_bytes,
    }
