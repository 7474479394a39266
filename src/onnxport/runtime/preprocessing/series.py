"""Time series as arrays: read from files, and cut to what a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError

_FILES = "Give a .npy file, or a .csv file with a line for each time step and a column for each channel."


def read_series(file: str | Path) -> NDArray[np.float32]:
    """A table of numbers, (time steps, channels): a `.npy` file, or text with commas and perhaps a line of names.

    Raises:
        UsageError: no such file, or no such table.
    """
    path = Path(file).expanduser()
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return np.array([[float(number) for number in row] for row in rows[_is_names(rows[0]) :]], np.float32)
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"{file} is no table of numbers: {error}.", hint=_FILES) from error


def context_of(values: Any, steps: int | str, channels: int) -> NDArray[np.float32]:
    """The last values of a series that a model takes, (steps, channels).

    Args:
        values: (time steps, channels), or (time steps,) for one channel; or the path of a file of `read_series`.
        steps: how many time steps the model takes; a name stands for any number.
        channels: of the model.

    Raises:
        UsageError: too few time steps, another number of channels, or values that are no finite numbers.
    """
    hint = f"Give an array of {steps} or more rows and {channels} columns."
    try:
        series = read_series(values) if isinstance(values, (str, Path)) else np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise UsageError("The series is no array of numbers.", hint=hint) from None
    series = series[:, None] if series.ndim == 1 else series
    least = steps if isinstance(steps, int) else 1
    if series.ndim != 2 or series.shape[1] != channels or len(series) < least:
        raise UsageError(f"The series has the shape {list(series.shape)}.", hint=hint)
    if not np.isfinite(series).all():
        raise UsageError(
            f"{int((~np.isfinite(series)).sum())} values of the series are missing or infinite.",
            hint="Fill them, for example with the value before.",
        )
    return np.ascontiguousarray(series[-least:] if isinstance(steps, int) else series)


def _is_names(row: list[str]) -> bool:
    """Whether a line has names of channels, and no numbers."""
    try:
        [float(field) for field in row]
    except ValueError:
        return True
    return False
