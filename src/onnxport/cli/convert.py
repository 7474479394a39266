"""`onnxport convert`: from a checkpoint to a verified ONNX folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxport.cli import options
from onnxport.cli.optimized import read_optimization, write_optimized
from onnxport.cli.options import Json, Quiet, Verbose
from onnxport.cli.shell import Shell, shell_of
from onnxport.cli.sizes import parse_size
from onnxport.errors import UsageError, VerificationError, nothing_written

if TYPE_CHECKING:
    from onnxport.artifact.results import Conversion


def convert(
    context: typer.Context,
    paths: options.ModelAndOutput,
    model: options.Model = None,
    task: options.Task = None,
    tokenizer: options.Tokenizer = None,
    framework: options.Framework = None,
    opset: options.Opset = None,
    use_external_format: options.ExternalFormat = False,
    shard_size: options.ShardSize = None,
    link_weights: options.LinkWeights = False,
    memory_limit: options.MemoryLimit = None,
    quantize: options.Quantize = False,
    optimize: options.Optimize = False,
    for_: options.OptimizeFor = None,
    max_loss: options.MaxLoss = None,
    data: options.Data = None,
    verify_level: options.VerifyLevel = "standard",
    require_dynamic: options.RequireDynamic = False,
    target: options.Target = None,
    report: options.Report = None,
    signature: options.Signature = None,
    check_loading: options.CheckLoading = False,
    overwrite: options.Overwrite = False,
    allow_mismatch: options.AllowMismatch = False,
    allow_missing_weights: options.AllowMissingWeights = False,
    allow_unused_weights: options.AllowUnusedWeights = False,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    revision: options.Revision = None,
    base_model: options.BaseModel = None,
    strip_prefix: options.StripPrefix = None,
    dequantize: options.Dequantize = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Convert a model to ONNX, verify it, and write it as a folder.

    The folder is written only if the graph gives the outputs of the model. Prints the path of the result.
    """
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    source, output = _model_and_output(paths, model)
    shell.interrupted = _interruption(output)
    arguments = _arguments(context.params)
    if target is not None:
        _check_target(target, output)
    if report is not None:
        _check_report(output, report)
    optimization = read_optimization(output, optimize, for_, max_loss, data)
    from onnxport.api.convert import convert as convert_model

    with shell.working() as reporter, _reported(output, report):
        conversion = convert_model(model=source, output=output, reporter=reporter, **arguments)
        if report is not None:
            with nothing_written(f"{output} was written; its report was not."):
                _write_report(output, report, conversion.manifest)
    written: dict[str, Path] = {}
    if optimization is not None and conversion.passed:
        written["optimized"] = write_optimized(shell, output, optimization)
    if target is not None and conversion.passed:
        from onnxport.cli.target import write_target

        with nothing_written(f"{output} was written and verified; the files for {target} were not."):
            written["target"] = write_target(shell, target, output)
    _show(shell, conversion, written)
    return 0 if conversion.passed else 1


_SAME_NAMES = (
    "tokenizer", "framework", "opset", "use_external_format", "quantize", "overwrite", "allow_mismatch",
    "allow_missing_weights", "allow_pickle", "trust_remote_code", "revision", "verify_level",
    "require_dynamic",
)  # fmt: skip
_ONLY_IF_GIVEN = (
    "signature",
    "link_weights",
    "allow_unused_weights",
    "base_model",
    "strip_prefix",
    "dequantize",
)  # not every kind of model takes them
_SIZES = {"shard_size": "--shard-size", "memory_limit": "--memory-limit"}


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The options of the command as arguments of `api.convert`."""
    arguments = {name: given[name] for name in _SAME_NAMES} | {"pipeline_name": given["task"] or "auto"}
    arguments |= {name: given[name] for name in _ONLY_IF_GIVEN if given[name] not in (None, False)}
    sizes = {name: parse_size(given[name], option) for name, option in _SIZES.items() if given[name] is not None}
    return arguments | sizes


def _interruption(output: Path) -> Callable[[], str]:
    """What to say when the user stops the command: whether the output was written by then."""
    before = _identity(output)

    def message() -> str:
        if _identity(output) == before:
            return "interrupted: nothing was written"
        return f"interrupted after {output} was written"

    return message


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file or folder at `path`."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_dev


def _check_report(output: Path, report: Path) -> None:
    """Refuse a report that cannot be written, before anything is converted."""
    from onnxport.api.report import report_file
    from onnxport.report.render import require_templates

    require_templates()
    report_file(output, report)


@contextmanager
def _reported(output: Path, report: Path | None) -> Iterator[None]:
    """A conversion that is refused because the outputs differ gets its report too."""
    try:
        yield
    except VerificationError as error:
        if report is not None and error.manifest is not None:
            _write_report(output, report, error.manifest, published=False)
            error.outcome = f"Nothing was written but the report {report}."
        raise


def _write_report(output: Path, report: Path, manifest: Any, *, published: bool = True) -> None:
    from onnxport.api.report import write_page

    write_page(manifest, output, report, published=published)


def _check_target(name: str, output: Path) -> None:
    """Refuse a target before anything is converted.

    Raises:
        UsageError: no such target, or the output is no folder.
        MissingDependencyError: the target's run time is not installed.
    """
    from onnxport.targets import APART, find_target

    find_target(name)
    if name in APART:
        raise UsageError(
            f"--target {name} is not available: its files go into a second folder.",
            hint=f"onnxport convert MODEL {output}, then onnxport target {name} {output} OTHER",
        )
    if output.suffix == ".onnx":
        raise UsageError(
            f"--target {name} needs a folder as output, but {output.name} is a file.",
            hint=f"Give a folder: {output.with_suffix('')}",
        )


def _model_and_output(paths: list[str], model: str | None) -> tuple[str, Path]:
    """The model to convert, and where to write it.

    Raises:
        UsageError: one of the two is missing, or there are too many arguments.
    """
    given = paths if model is None else [model, *paths]
    if len(given) == 2 and all(given):
        return given[0], Path(given[1]).expanduser()
    usage = "onnxport convert MODEL OUTPUT, or onnxport convert --model MODEL OUTPUT"
    if len(given) < 2 or not all(given):
        raise UsageError(f"A model and an output are needed; given: {', '.join(map(repr, given))}.", hint=usage)
    also = " besides --model" if model is not None else ""
    raise UsageError(f"Too many arguments{also}: {', '.join(paths)}.", hint=usage)


def _show(shell: Shell, conversion: Conversion, written: dict[str, Path]) -> None:
    from onnxport.cli.tables import verification_table
    from onnxport.verification.localisation.describe import difference_lines

    for component in conversion.manifest.components:
        if component.verification is not None:
            shell.console.print(verification_table(component.name, component.verification))
            if component.verification.difference is not None:
                shell.tell("\n".join(difference_lines(component.verification.difference)))
    if not conversion.passed:
        shell.tell("warning: the outputs differ; the folder was written because of --allow-mismatch")
    if shell.json:
        shell.write_json(_document(conversion) | written)
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
