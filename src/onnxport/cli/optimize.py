"""`onnxport optimize` and `onnxport quantize`: add a graph to a folder, or write one beside a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from onnxport.cli.options import (
    FloatActivations,
    FolderOrGraph,
    Json,
    Precision,
    Processor,
    Quiet,
    Sizes,
    Verbose,
)
from onnxport.cli.shell import Shell, shell_of


def optimize(
    context: typer.Context,
    path: FolderOrGraph,
    for_: Processor = None,
    sizes: Sizes = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write an optimized graph.

    It is fused by ONNX Runtime; with --for it is fused for a processor; with --sizes it has static shapes. It is
    compared with the graph that it is made from. Prints the path of the new graph.
    """
    from onnxport.api.optimize import optimize as optimize_path
    from onnxport.variants.static_shapes.plan import parse_sizes

    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose)
    chosen = None if sizes is None else parse_sizes(sizes)
    _run(shell, "Optimize", lambda: optimize_path(path, for_=for_, sizes=chosen))


def quantize(
    context: typer.Context,
    path: FolderOrGraph,
    precision: Precision = "int8",
    float_activations: FloatActivations = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a quantized graph.

    It is compared with the graph that it is made from. Prints the path of the new graph.
    """
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
