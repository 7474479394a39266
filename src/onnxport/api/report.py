"""`write_report`: a folder as one HTML file that can be sent to a colleague."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxport.artifact.folder import open_folder
from onnxport.artifact.manifest import Manifest
from onnxport.errors import OutputError, UsageError, nothing_written
from onnxport.progress import Reporter, Silent
from onnxport.report.render import GENERATOR, render_report
from onnxport.specs import ModuleError

_HEAD = 1000  # characters in which a report says what it is


@nothing_written()
def write_report(
    folder: str | Path, output: str | Path | None = None, *, layers: bool = False, reporter: Reporter | None = None
) -> Path:
    """Write an HTML file that shows what the folder holds and what was proved about it.

    The file needs no other file and no network. Only the manifest is read, unless `layers` is True.

    Args:
        folder: a folder that onnxport wrote.
        output: the file; `FOLDER.html` beside the folder by default. A report that is there is replaced.
        layers: run the graphs, and show the error by layer of those that were made from another one.
        reporter: told about every step.

    Returns:
        The path of the file.

    Raises:
        FolderError: there is no such folder, or its manifest is damaged.
        OutputError: the file exists and is no report, or cannot be written.
        MissingDependencyError: jinja2 is not installed.

    Example:
        >>> write_report("out/bert", "bert.html")  # doctest: +SKIP
        PosixPath('bert.html')
    """
    reporter = reporter or Silent()
    opened = open_folder(folder)
    target = report_file(opened.path, output)
    errors = {}
    if layers and any(component.derived_from for component in opened.manifest.components):
        errors = _layers(opened.path, reporter)
    with reporter.step("Write the report") as step:
        write_page(opened.manifest, opened.path, target, errors)
        step.done(f"{target.stat().st_size / 1e3:.0f} kB")
    return target


def report_file(folder: Path, output: str | Path | None) -> Path:
    """Where the report of `folder` goes.

    Raises:
        UsageError: the path does not end in .html, or is in the folder, whose files are all on record.
        OutputError: there is something else than a report.
    """
    target = (
        Path(output).expanduser()
        if output is not None
        else folder.absolute().with_name(f"{folder.absolute().name}.html")
    )
    if target.suffix not in (".html", ".htm"):
        raise UsageError(f"{target} does not end in .html.", hint=f"onnxport report {folder} -o {target}.html")
    if folder.resolve() in target.resolve().parents:
        raise UsageError(
            f"{target} is inside the folder {folder}, whose files are all on record.",
            hint=f"onnxport report {folder} -o {folder.name}.html",
        )
    if target.exists() and (not target.is_file() or GENERATOR not in _head(target)):
        raise OutputError(f"{target} exists, and is no report of onnxport.", hint="Give another file with -o.")
    return target


def write_page(
    manifest: Manifest,
    folder: Path,
    target: Path,
    layers: dict[str, Sequence[ModuleError]] | None = None,
    *,
    published: bool = True,
) -> None:
    """Write the page.

    Args:
        folder: the path that the folder has, or would have.
        layers, published: as for `render_report`.

    Raises:
        OutputError: the file cannot be written.
    """
    text = render_report(manifest, folder.absolute().name, layers, published=published)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written: {error.strerror}.", hint="Give another file with -o."
        ) from error


def _head(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(_HEAD)


def _layers(folder: Path, reporter: Reporter) -> dict[str, Sequence[ModuleError]]:
    """Graph -> error after each layer, of graphs that were made from another one."""
    from onnxport.api.compare import compare

    found: dict[str, Sequence[ModuleError]] = {}
    for graph in compare(folder, reporter=reporter).graphs:
        last = {layer.layer: layer for layer in graph.layers if layer.layer}  # the last value of each layer
        found[graph.b] = tuple(ModuleError(one.layer, one.operator, one.error) for one in last.values())
    return found
