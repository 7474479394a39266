"""The next values of time series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.preprocessing.series import context_of
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.base import Prepared, TaskPipeline

_VALUES = "past_values"


class Forecasting(TaskPipeline):
    """`pipeline(values)` returns the next values, (time steps, channels) float32.

    Values are (time steps, channels), or (time steps,) for a model of one channel. If there are more time steps than
    the model takes, the last ones are used. A path is that of a `.csv` or `.npy` file. A list of arrays or paths is a
    list of series.

    Raises:
        UsageError: too few time steps, another number of channels, or values that are no finite numbers.
    """

    def is_one(self, inputs: Any) -> bool:
        if not isinstance(inputs, (list, tuple)) or not inputs:
            return True
        return not isinstance(inputs[0], (str, Path)) and np.ndim(inputs[0]) < 2

    def prepare(self, item: Any, settings: Any) -> Prepared:
        _, steps, channels = self.model.inputs[_VALUES].axes
        return Prepared([{_VALUES: context_of(item, steps, int(channels))}])

    def answer(self, outputs: Sequence[Row], context: Any, settings: Any) -> NDArray[np.float32]:
        return np.asarray(outputs[0]["prediction_outputs"], np.float32)
