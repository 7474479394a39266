"""Time series: the last values of several channels."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes

VALUES = "past_values"


class SeriesInputGenerator:
    """Makes rows of series, (rows, time steps, channels): random walks of different sizes, and one that stands still.

    Args:
        config: config of the model; `context_length` and `num_input_channels` are sizes.
    """

    can_pad = False
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, config: Any) -> None:
        length = int(config.context_length)
        self.channels = int(config.num_input_channels)
        self.dims: tuple[DynamicDim, ...] = (
            DynamicDim("batch_size", 2, (3, 5)),
            DynamicDim("context_length", length, (length + 3, 2 * length, 3 * length)),
        )

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        shape = sizes["batch_size"], sizes["context_length"], self.channels
        rng = np.random.default_rng([seed, *shape])
        values = rng.standard_normal(shape).cumsum(1) * 10.0 ** rng.integers(-1, 3, (shape[0], 1, shape[2]))
        values[1::3, :, -1] = 7  # the scale of such a channel is 0
        return {VALUES: values.astype(np.float32)}
