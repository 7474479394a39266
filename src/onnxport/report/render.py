"""The HTML page: one file without scripts, which loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from onnxport.artifact.manifest import Manifest
from onnxport.errors import FolderError, MissingDependencyError
from onnxport.report.view import view_of
from onnxport.report.words import bytes_text, number_text, share_text, sizes_text
from onnxport.specs import ModuleError

GENERATOR = '<meta name="generator" content="onnxport">'


def render_report(
    manifest: Manifest,
    name: str,
    layers: Mapping[str, Sequence[ModuleError]] | None = None,
    *,
    published: bool = True,
) -> str:
    """The page. Everything that comes from the manifest is escaped.

    Args:
        manifest: with at least one component.
        name: of the folder.
        layers: graph -> error after each of its layers, against the graph that it was made from.
        published: False for a conversion that failed.

    Raises:
        FolderError: the manifest has no components.
        MissingDependencyError: jinja2 is not installed.
    """
    jinja2 = require_templates()
    if not manifest.components:
        raise FolderError("The manifest has no components, so there is nothing to report.")
    files = resources.files(__package__)

    def template(file: str) -> str:
        return files.joinpath(file).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(template),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number_text,
        "megabytes": bytes_text,
        "share": share_text,
        "sizes": sizes_text,
    }
    context = view_of(manifest, name, dict(layers or {}), published=published)
    page: str = environment.get_template("report.html.j2").render(
        context, style=template("style.css"), generator=GENERATOR
    )  # fmt: skip
    return page


def require_templates() -> Any:
    """The module jinja2.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(
            "Writing a report needs the package 'jinja2', which is not installed.",
            hint="pip install 'onnxport[report]'",
        ) from error
    return jinja2
