"""The next values of time series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.base import Prepared, TaskPipeline

_VALUES = "past_values"


class Forecasting(TaskPipeline):
    """`pipeline(values)` returns the next values, (time steps, channels) float32.

    Values are (time steps, channels), or (time steps,) for a model of one channel. If there are more time steps than
    the model takes, the last ones are used. A list of arrays is a list of series.

    Raises:
        UsageError: too few time steps, another number of channels, or values that are no finite numbers.
    """

    def is_one(self, inputs: Any) -> bool:
        return np.ndim(inputs[0]) < 2 if isinstance(inputs, (list, tuple)) and len(inputs) else True

    def prepare(self, item: Any, settings: Any) -> Prepared:
        _, steps, channels = self.model.inputs[_VALUES].axes
        return Prepared([{_VALUES: context_of(item, steps, int(channels))}])

    def answer(self, outputs: Sequence[Row], context: Any, settings: Any) -> NDArray[np.float32]:
        return np.asarray(outputs[0]["prediction_outputs"], np.float32)


def context_of(values: Any, steps: int | str, channels: int) -> NDArray[np.float32]:
    """The last values of a series that a model takes, (steps, channels).

    Args:
        values: (time steps, channels), or (time steps,) for one channel.
        steps: how many time steps the model takes; a name stands for any number.
        channels: of the model.

    Raises:
        UsageError: too few time steps, another number of channels, or values that are no finite numbers.
    """
    hint = f"Give an array of {steps} or more rows and {channels} columns."
    try:
        series = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise UsageError("The series is no array of numbers.", hint=hint) from None
    series = series[:, None] if series.ndim == 1 else series
    least = steps if isinstance(steps, int) else 1
    if series.ndim != 2 or series.shape[1] != channels or len(series) < least:
        raise UsageError(f"The series has the shape {list(np.shape(values))}.", hint=hint)
    if not np.isfinite(series).all():
        raise UsageError(
            f"{int((~np.isfinite(series)).sum())} values of the series are missing or infinite.",
            hint="Fill them, for example with the value before.",
        )
    return np.ascontiguousarray(series[-least:] if isinstance(steps, int) else series)
