"""SavedModels that an optimizer was saved with."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from onnxport.sources.tensorflow.source import tensorflow


@cache
def register_saved_optimizers() -> None:
    """Let TensorFlow load what Keras 2 saved together with its optimizer; once a process.

    Upstream: Keras 2 registered the class that its optimizers become when they are loaded. Keras 3 does not, so
    that `tf.saved_model.load` fails with "'_UserObject' object has no attribute 'add_slot'". Nothing of an
    optimizer is converted; all that it needs is a place for its variables.
    """
    tf: Any = tensorflow()
    if "tf_keras" in sys.modules:
        return  # it has registered its own

    class SavedOptimizer(tf.__internal__.tracking.AutoTrackable):  # type: ignore[name-defined,misc]
        def add_slot(self, var: Any, slot_name: str) -> Any:
            return tf.Variable(tf.zeros(var.shape, var.dtype), trainable=False, name=slot_name)

    load = tf.__internal__.saved_model.load
    load.register_revived_type(
        "optimizer",
        lambda value: isinstance(value, SavedOptimizer),
        versions=[
            load.VersionedTypeRegistration(
                object_factory=lambda _proto: SavedOptimizer(),
                version=1,
                min_producer_version=1,
                min_consumer_version=1,
                setter=lambda *_: None,
            )
        ],
    )
