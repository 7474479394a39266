"""`convert --optimize`: the optimized graph of a folder that was just written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxport.cli.shell import Shell
from onnxport.errors import UsageError, nothing_written


@dataclass(frozen=True)
class Optimization:
    """What is made after a conversion.

    Attributes:
        target: see `api.tune.TARGETS`.
        max_loss: the budget as a share; None for the default, and for a decoder that is fused for the CPU.
        data: texts of the user to measure the loss on.
    """

    target: str
    max_loss: float | None
    data: Path | None


def read_optimization(
    output: Path, optimize: bool, target: str | None, max_loss: str | None, data: Path | None
) -> Optimization | None:
    """What the options ask for, checked before anything is converted; None where nothing is optimized.

    Raises:
        UsageError: options without --optimize, an unknown target, no share, texts that cannot be read, or an output
            that is no folder.
    """
    given = {"--for": target, "--max-loss": max_loss, "--data": data}
    if not optimize:
        lost = next((name for name, value in given.items() if value is not None), None)
        if lost is not None:
            raise UsageError(f"{lost} belongs to --optimize, which is not given.", hint="Add --optimize.")
        return None
    from onnxport.api.tune import MAX_LOSS, Request, check_request, parse_loss

    if output.suffix == ".onnx":
        raise UsageError(
            f"--optimize needs a folder as output, but {output.name} is a file.",
            hint=f"Give a folder: {output.with_suffix('')}",
        )
    share = None if max_loss is None else parse_loss(max_loss)
    asked = Optimization(target or "cpu", share, data)
    check_request(Request(asked.target, "auto", MAX_LOSS if share is None else share, data))
    return asked


def write_optimized(shell: Shell, folder: Path, asked: Optimization) -> Path:
    """Optimize a folder as `onnxport optimize FOLDER --for TARGET` does.

    Returns:
        The file that was written.

    Raises:
        OnnxPortError: as `api.optimize.optimize`; the folder is as it was.
    """
    from onnxport.api.optimize import optimize
    from onnxport.artifact.folder import open_folder
    from onnxport.cli.tables import tuning_table

    with nothing_written(f"{folder} was written and verified; its optimized graph was not."), shell.working() as told:
        file = optimize(folder, asked.target, max_loss=asked.max_loss, data=asked.data, reporter=told)
    tuning = open_folder(folder).manifest.tuning
    if tuning is not None and not shell.json:
        shell.console.print(tuning_table(tuning))
    return file
