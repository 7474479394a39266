"""Keras' TimeDistributed as one call over all steps.

Upstream (Keras 3.15, TensorFlow 2.21): where the number of steps is free, the layer goes through
`tf.vectorized_map`, which puts loops around what it cannot vectorize (GRU, LSTM), in a form that cannot be frozen;
where it is fixed, the inner layer is in the graph once for every step. The inner layer never sees more than one step,
so steps may as well be rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxport.sources.tensorflow.source import tensorflow


@contextmanager
def batch_time_distributed() -> Iterator[None]:
    """While a function is traced: TimeDistributed calls its layer once."""
    layer = getattr(getattr(sys.modules.get("keras"), "layers", None), "TimeDistributed", None)
    if layer is None:  # Keras is not imported: no layer of it is traced
        yield
        return
    original = layer.call

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if training or not hasattr(inputs, "graph") or inputs.shape.rank is None or inputs.shape.rank < 3:
            return original(self, inputs, training, mask)
        settings = {"mask": _rows(mask)} if mask is not None and self.layer._call_has_mask_arg else {}
        found = self.layer.call(_rows(inputs), **settings)
        return tensorflow().nest.map_structure(lambda made: _steps(made, inputs), found)

    layer.call = call
    try:
        yield
    finally:
        layer.call = original


def _rows(tensor: Any) -> Any:
    """(batch, steps, ...) to (batch * steps, ...)."""
    tf = tensorflow()
    flat = tf.reshape(tensor, tf.concat([[-1], tf.shape(tensor)[2:]], 0))
    flat.set_shape([None, *tensor.shape[2:]])
    return flat


def _steps(made: Any, inputs: Any) -> Any:
    """(batch * steps, ...) to (batch, steps, ...), as `inputs` has them."""
    tf = tensorflow()
    steps = tf.reshape(made, tf.concat([tf.shape(inputs)[:2], tf.shape(made)[1:]], 0))
    steps.set_shape([*inputs.shape[:2], *made.shape[1:]])
    return steps
