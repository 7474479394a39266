"""Tiny Keras models with random weights of a fixed seed. Import this only where TensorFlow may be imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxport.sources.tensorflow.source import tensorflow

tf: Any = tensorflow()
import keras  # noqa: E402 - after TensorFlow, which chooses its backend
from keras import layers, ops  # noqa: E402


def text_classifier() -> Any:
    """Functional, inputs and outputs by name, attention, exact GELU (Erfc), a weight of more than 8192 numbers."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32", name="ids")
    mask = keras.Input((None,), dtype="int32", name="mask")
    hidden = layers.Embedding(50, 128)(ids) * ops.expand_dims(ops.cast(mask, "float32"), -1)
    hidden = layers.LayerNormalization()(hidden + layers.MultiHeadAttention(2, 8)(hidden, hidden))
    hidden = layers.Dense(128, activation="gelu")(hidden)
    scores = layers.Dense(3, name="scores")(layers.GlobalAveragePooling1D()(hidden))
    return keras.Model({"ids": ids, "mask": mask}, {"scores": scores, "hidden": hidden})


def image_network() -> Any:
    """Functional, one input; grouped, separable and transposed convolutions, batch normalization."""
    keras.utils.set_random_seed(1)
    image = keras.Input((None, None, 3), name="image")
    hidden = layers.BatchNormalization()(layers.Conv2D(64, 3, strides=2, padding="same")(image))
    hidden = layers.Conv2D(64, 3, groups=8, activation="relu")(hidden)
    hidden = layers.Conv2DTranspose(16, 3, strides=2)(layers.SeparableConv2D(128, 3)(hidden))
    return keras.Model(image, layers.Dense(4, name="scores")(layers.GlobalAveragePooling2D()(hidden)))


def pixel_network() -> Any:
    """Divides its pixels by 255 itself."""
    keras.utils.set_random_seed(2)
    image = keras.Input((32, 32, 3))
    hidden = layers.Conv2D(8, 3)(layers.Rescaling(1 / 255, offset=1.0)(image))
    return keras.Model(image, layers.Flatten()(hidden))


def recurrent() -> Any:
    """Sequential: LSTM in both directions, GRU, a simple RNN."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((None, 30)),
            layers.Bidirectional(layers.LSTM(40, return_sequences=True)),
            layers.GRU(8, return_sequences=True),
            layers.SimpleRNN(6),
            layers.Dense(2),
        ]
    )


def masked_recurrent() -> Any:
    """An LSTM that skips padding."""
    keras.utils.set_random_seed(4)
    ids = keras.Input((None,), dtype="int32", name="ids")
    return keras.Model(ids, layers.Dense(3)(layers.LSTM(8)(layers.Embedding(30, 8, mask_zero=True)(ids))))


def two_sequences() -> Any:
    """Two inputs whose lengths are independent."""
    keras.utils.set_random_seed(5)
    query, value = keras.Input((None, 8), name="query"), keras.Input((None, 8), name="value")
    return keras.Model([query, value], layers.Attention()([query, value]))


@keras.saving.register_keras_serializable("onnxport_tests")
class Subclassed(keras.Model):  # type: ignore[misc]
    """Declares no inputs."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.embed, self.dense = layers.Embedding(40, 16), layers.Dense(4, activation="gelu")

    def call(self, inputs: Any) -> Any:
        hidden = self.embed(inputs["ids"]) * ops.expand_dims(ops.cast(inputs["mask"], "float32"), -1)
        return {"scores": self.dense(ops.mean(hidden, 1)), "hidden": hidden}


def subclassed() -> Any:
    """Called once, so that its weights exist."""
    keras.utils.set_random_seed(6)
    model = Subclassed()
    model({"ids": np.ones((2, 5), "int32"), "mask": np.ones((2, 5), "int32")})
    return model


class WithSignatures(tf.Module):  # type: ignore[misc,name-defined]
    """Two signatures that share a weight; one gives its input back too."""

    def __init__(self) -> None:
        super().__init__()
        numbers = np.random.default_rng(7).standard_normal((128, 160)).astype(np.float32)
        self.weight = tf.Variable(numbers)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 128], tf.float32, name="x")])
    def features(self, x: Any) -> Any:
        return {"features": tf.nn.gelu(tf.matmul(tf.reshape(x, [-1, 128]), self.weight)), "sums": tf.reduce_sum(x, -1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 160], tf.float32, name="y")])
    def back(self, y: Any) -> Any:
        return {"x": tf.matmul(y, self.weight, transpose_b=True)}


def saved_model(folder: Any, module: Any = None, **signatures: Callable[..., Any]) -> None:
    """Save a module; `WithSignatures` with both by default."""
    module = module or WithSignatures()
    tf.saved_model.save(module, str(folder), signatures or {"serving_default": module.features, "back": module.back})
