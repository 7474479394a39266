"""Operators whose meaning differs at the edges: held against TensorFlow there, not where samples usually are.

int64 and the later opset are for the sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport import convert
from onnxport.runtime.session import OnnxSession
from tests.sample import sampled
from tests.tiny_keras import keras, layers, tf

pytestmark = pytest.mark.integration


class Function(layers.Layer):  # type: ignore[misc]
    """A function of tensors as a layer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def call(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def model_of(function: Callable[..., Any], **inputs: tuple[tuple[int | None, ...], str]) -> Any:
    """A Keras model; `inputs` are shapes without the batch, and types."""
    tensors = [keras.Input(shape, dtype=dtype, name=name) for name, (shape, dtype) in inputs.items()]
    return keras.Model(tensors, Function(function)(*tensors))


def agree(model: Any, folder: Path, *arrays: np.ndarray[Any, Any], opset: int | None = None) -> OnnxSession:
    """Convert, and compare with the model on `arrays`, in the order of its inputs."""
    convert(None, model, folder, opset)
    session = OnnxSession(folder)
    wanted = tf.nest.flatten(model([tf.constant(array) for array in arrays], training=False))
    found = session.run({spec.name: array for spec, array in zip(session.inputs, arrays, strict=True)})
    for ours, theirs in zip(found.values(), wanted, strict=True):
        assert ours.dtype == theirs.dtype.as_numpy_dtype
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)
    return session


@pytest.mark.parametrize("dtype", sampled(["int32", "int64"], "int32"))
def test_division_of_negative_whole_numbers(tmp_path: Path, dtype: str) -> None:
    def function(a: Any, b: Any) -> Any:
        return a // b, a % b, tf.truncatediv(a, b), tf.truncatemod(a, b)

    numbers = np.iinfo(dtype)
    a = np.array([[-7, 7, -7, 7, -8, 0, numbers.min + 1, numbers.max]], dtype)
    b = np.array([[2, -2, -2, 2, 4, -3, 1000, -7]], dtype)
    agree(model_of(function, a=((None,), dtype), b=((None,), dtype)), tmp_path / "out", a, b)


def test_one_hot_of_what_is_no_index(tmp_path: Path) -> None:
    def function(x: Any) -> Any:
        first = tf.one_hot(x, 4, axis=1, on_value=2.0, off_value=-1.0)
        return tf.one_hot(x, 5), first, tf.one_hot(x, 3, dtype=tf.int32), tf.one_hot(x, 3, True, False)

    x = np.array([[-1, 0, 4, 5, 7, -5, -6]], "int32")
    agree(model_of(function, x=((None,), "int32")), tmp_path / "out", x)


def test_whole_numbers_that_float32_does_not_tell_apart(tmp_path: Path) -> None:
    def function(x: Any) -> Any:
        y = x[:, ::-1]
        return x < y, x <= y, x > y, x >= y, tf.math.top_k(x, 3).values, tf.math.top_k(x, 3).indices

    x = np.array([[2**24 + 1, 2**24, 5, -(2**24) - 1, -(2**24), 2**40 + 1, 2**40]], "int64")
    agree(model_of(function, x=((None,), "int64")), tmp_path / "out", x)


@pytest.mark.parametrize("opset", sampled([13, 18], 13))
def test_types_that_onnx_runtime_does_not_compare(tmp_path: Path, opset: int) -> None:
    x = np.array([[200, 3, 255]], "uint8")
    agree(model_of(lambda x: (x < x[:, ::-1], x >= 4), x=((None,), "uint8")), tmp_path / "out", x, opset=opset)


def test_rows_of_a_negative_segment_are_left_out(tmp_path: Path) -> None:
    def function(x: Any, segments: Any) -> Any:
        reduced = (tf.math.unsorted_segment_sum, tf.math.unsorted_segment_prod, tf.math.unsorted_segment_max)
        return [reduce(x, segments, 4) for reduce in reduced]

    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    model = model_of(function, x=((3,), "float32"), segments=((), "int32"))
    agree(model, tmp_path / "out", x, np.array([0, 2, -1, 2, 0], "int32"))


def test_operators_that_tf2onnx_lacks(tmp_path: Path) -> None:
    def function(x: Any) -> Any:
        return keras.activations.celu(x), tf.math.xlogy(tf.nn.relu(x), tf.abs(x)), tf.roll(x, [-1], [1])

    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    agree(model_of(function, x=((None,), "float32")), tmp_path / "out", x)


def test_numbers_into_buckets(tmp_path: Path) -> None:
    x = keras.Input((None,), name="x")
    model = keras.Model(x, layers.Discretization([-1.0, 0.0, 1.5])(x))
    agree(model, tmp_path / "out", np.array([[-1, 0, 1.5, -9, 9, 0.1]], np.float32))
