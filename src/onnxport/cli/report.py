"""`onnxport report`: a folder as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxport.cli.options import Folder, Json, Quiet, Verbose
from onnxport.cli.shell import shell_of

_Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="The HTML file. Default: FOLDER.html.")
]
_Layers = Annotated[
    bool, typer.Option("--layers", help="Run the graphs, and show the error by layer of quantized ones.")
]


def report(
    context: typer.Context,
    folder: Folder,
    output: _Output = None,
    layers: _Layers = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Write an HTML file that shows what a folder holds and what was proved.

    Parts, axes, weights, errors, variants, operators and commands, in one file that loads nothing. Prints its path.
    """
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    from onnxport.api.report import write_report

    with shell.working() as reporter:
        written = write_report(folder, output, layers=layers, reporter=reporter)
    if shell.json:
        shell.write_json({"report": str(written)})
    else:
        shell.write(str(written))
    return 0
