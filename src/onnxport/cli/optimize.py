"""`onnxport optimize` and `onnxport quantize`: add a graph to a folder, or write one beside a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import typer

from onnxport.cli.options import (
    Calibration,
    CalibrationData,
    CandidatePrecision,
    Data,
    Explain,
    FloatActivations,
    FolderOrGraph,
    Json,
    KeptCheckpoint,
    MaxLoss,
    MemoryLimit,
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
    precision: CandidatePrecision = None,
    max_loss: MaxLoss = None,
    data: Data = None,
    explain: Explain = False,
    memory_limit: MemoryLimit = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write an optimized graph.

    It is fused by onnxport and ONNX Runtime; with --sizes it has static shapes. With --for, --precision, --max-loss or
    --data several graphs are made and measured, and the fastest within the budget is kept. Each is compared with the
    graph that it is made from. Prints the path of the new graph.
    """
    from onnxport.api.optimize import optimize as optimize_path
    from onnxport.api.tune import fusions_of, parse_loss
    from onnxport.artifact.folder import open_folder
    from onnxport.cli.tables import fusions_table, tuning_table
    from onnxport.variants.static_shapes.plan import parse_sizes

    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose, memory_limit=memory_limit)
    chosen = None if sizes is None else parse_sizes(sizes)
    if precision is None and max_loss is None and data is None and not explain and for_ in (None, "cpu"):
        _run(shell, "Optimize", lambda: optimize_path(path, for_=for_, sizes=chosen))
        return
    loss = None if max_loss is None else parse_loss(max_loss)
    with shell.working() as reporter:
        file = optimize_path(
            path, for_, chosen, precision=precision or ("auto" if explain else None), max_loss=loss, data=data,
            reporter=reporter,
        )  # fmt: skip
        if chosen is None and not shell.json:
            tuning = open_folder(path).manifest.tuning
            assert tuning is not None
            shell.console.print(tuning_table(tuning))
        fusions = fusions_of(open_folder(path)) if explain else {}
        if fusions and not shell.json:
            shell.console.print(fusions_table(fusions))
    if shell.json:
        told = {name: [asdict(kind) for kind in kinds] for name, kinds in fusions.items()}
        shell.write_json(
            {"path": file, "size_bytes": file.stat().st_size} | ({"fusions": told} if explain else {})
        )  # fmt: skip
    else:
        shell.write(str(file))


def quantize(
    context: typer.Context,
    path: FolderOrGraph,
    precision: Precision = "int8",
    float_activations: FloatActivations = False,
    checkpoint: KeptCheckpoint = None,
    calibration: Calibration = None,
    data: CalibrationData = None,
    memory_limit: MemoryLimit = None,
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
    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose, memory_limit=memory_limit)
    step = partial(
        quantize_path, path, precision, float_activations=float_activations, checkpoint=checkpoint,
        calibration=calibration, data=data,
    )  # fmt: skip
    _run(shell, title, step)


def _run(shell: Shell, title: str, step: Callable[[], Path]) -> None:
    with shell.working() as reporter, reporter.step(title) as line:
        file = step()
        line.done(f"{file.stat().st_size / 1e6:.1f} MB")
    if shell.json:
        shell.write_json({"path": file, "size_bytes": file.stat().st_size})
    else:
        shell.write(str(file))
