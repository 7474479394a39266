"""`onnxport compare`: what is different between two folders or two graphs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxport.cli.options import Json, Quiet, Verbose
from onnxport.cli.shell import Shell, shell_of

if TYPE_CHECKING:
    from onnxport.verification.comparison.result import Comparison

_First = Annotated[Path, typer.Argument(metavar="A", help="A folder that onnxport wrote, or an .onnx file.")]
_Second = Annotated[
    Path | None,
    typer.Argument(metavar="B", help="Another one. Default: graphs of A, each with the one it was made from."),
]
_Graphs = Annotated[
    tuple[str, str] | None,
    typer.Option("--graphs", metavar="GRAPH GRAPH", help="A graph of A and one of B, such as model model_quantized."),
]


def compare(
    context: typer.Context,
    a: _First,
    b: _Second = None,
    graphs: _Graphs = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Show what is different between two folders, or between two graphs.

    Inputs and axes, operators, weights, files, and the outputs on the same random inputs, with the layers where the
    error grows most. The exit code is 1 if they differ. The source model is not needed.
    """
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    from onnxport.api.compare import compare as compare_paths

    with shell.working() as reporter:
        found = compare_paths(a, b, graphs=graphs, reporter=reporter)
    if shell.json:
        shell.write_json(found)
    else:
        _show(shell, found)
    return 0 if found.equal else 1


def _show(shell: Shell, found: Comparison) -> None:
    from onnxport.cli.comparison_tables import changes_table, comparison_tables

    if found.changes:
        shell.write_table(changes_table("folders", found.changes))
    for graph in found.graphs:
        shell.write_table(*comparison_tables(graph))
        for note in graph.notes:
            shell.tell(f"note: {note}")
    for note in found.notes:
        shell.tell(f"note: {note}")
    sides = f"{found.a} and {found.b}" if found.a != found.b else f"the graphs of {found.a}"
    shell.write(f"{sides}: {'equal within the tolerance' if found.equal else 'DIFFERENT'}")
