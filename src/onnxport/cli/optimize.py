"""`onnxport optimize` and `onnxport quantize`: a further graph in a folder, or beside a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from onnxport.cli.shell import Json, Quiet, Shell, Verbose, shell_of

_Target = Annotated[
    Path, typer.Argument(metavar="FOLDER_OR_ONNX", help="A folder that onnxport wrote, or an .onnx file.")
]
_For = Annotated[
    str | None,
    typer.Option("--for", metavar="PROCESSOR", help="Fuse a decoder for it: cpu. Its cache then stays in place."),
]

_Sizes = Annotated[
    str | None,
    typer.Option(
        "--sizes",
        metavar="AXIS=N,...",
        help="Make every axis a number, and a decoder's cache a window: batch_size=1,sequence_length=128",
    ),
]


def optimize(
    context: typer.Context, path: _Target, for_: _For = None, sizes: _Sizes = None, json: Json = False,
    quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Store the graph as ONNX Runtime fuses it; checked against the graph it is made from."""
    from onnxport.api.optimize import optimize as optimize_path
    from onnxport.variants.static_shapes.plan import parse_sizes

    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    chosen = None if sizes is None else parse_sizes(sizes)
    _run(shell, "Optimize", lambda: optimize_path(path, for_=for_, sizes=chosen))


def quantize(
    context: typer.Context,
    path: _Target,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            "-p",
            help="int8: weights, and activations at run time. int4, int8-weights: weights alone, in blocks of 32.",
        ),
    ] = "int8",
    float_activations: Annotated[
        bool,
        typer.Option(
            "--float-activations",
            help="With int4 and int8-weights: inputs of products stay float32; more exact, and slower.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Store a graph of smaller numbers; checked against the graph it is made from."""
    from onnxport.api.optimize import quantize as quantize_path
    from onnxport.graph.quantization.quantize import find_precision

    title = find_precision(precision).title
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    _run(shell, title, lambda: quantize_path(path, precision, float_activations=float_activations))


def _run(shell: Shell, title: str, step: Callable[[], Path]) -> None:
    with shell.working() as reporter, reporter.step(title) as line:
        file = step()
        line.done(f"{file.stat().st_size / 1e6:.1f} MB")
    if shell.json:
        shell.write_json({"path": file, "size_bytes": file.stat().st_size})
    else:
        shell.write(str(file))
