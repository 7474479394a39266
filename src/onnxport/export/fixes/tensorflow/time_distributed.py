"""Call the inner layer of Keras' TimeDistributed once for all steps.

Upstream (Keras 3.15, TensorFlow 2.21): if the number of steps is dynamic, the layer uses `tf.vectorized_map`. It puts
loops around what it cannot vectorize (GRU, LSTM), in a form that cannot be frozen. If it is static, the inner layer is
in the graph once per step. The inner layer never sees more than one step, so steps can be rows of the batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxport.sources.tensorflow.source import tensorflow
from onnxport.system.replaced import replaced


@contextmanager
def batch_time_distributed() -> Iterator[None]:
    """Call the inner layer of TimeDistributed once, while a function is traced."""
    layer = getattr(getattr(sys.modules.get("keras"), "layers", None), "TimeDistributed", None)
    if layer is None:  # Keras is not imported, so none of its layers is traced
        yield
        return
    original = layer.call

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if training or not hasattr(inputs, "graph") or inputs.shape.rank is None or inputs.shape.rank < 3:
            return original(self, inputs, training, mask)
        settings = {"mask": _steps_to_rows(mask)} if mask is not None and self.layer._call_has_mask_arg else {}
        found = self.layer.call(_steps_to_rows(inputs), **settings)
        return tensorflow().nest.map_structure(lambda made: _rows_to_steps(made, inputs), found)

    with replaced(layer, "call", call):
        yield


def _steps_to_rows(tensor: Any) -> Any:
    """Reshape (batch, steps, ...) to (batch * steps, ...)."""
    tf = tensorflow()
    flat = tf.reshape(tensor, tf.concat([[-1], tf.shape(tensor)[2:]], 0))
    flat.set_shape([None, *tensor.shape[2:]])
    return flat


def _rows_to_steps(made: Any, inputs: Any) -> Any:
    """Reshape (batch * steps, ...) to (batch, steps, ...), with the sizes of `inputs`."""
    tf = tensorflow()
    steps = tf.reshape(made, tf.concat([tf.shape(inputs)[:2], tf.shape(made)[1:]], 0))
    steps.set_shape([*inputs.shape[:2], *made.shape[1:]])
    return steps
