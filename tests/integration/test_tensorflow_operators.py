"""Operators of TensorFlow where tf2onnx is wrong, at the numbers where it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxport import convert
from onnxport.runtime.session import OnnxSession
from onnxport.sources.tensorflow.source import tensorflow

pytestmark = pytest.mark.integration
tf = tensorflow()


def test_what_is_not_chosen_may_be_no_number(tmp_path: Path) -> None:
    class Chosen(tf.Module):  # type: ignore[misc,name-defined]
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x"), tf.TensorSpec([None, 4], name="n")])
        def __call__(self, x, n):  # type: ignore[no-untyped-def]
            hidden = tf.where(n > 0, x, -np.inf)
            return {
                "quotient": tf.where(n > 0, x / n, 0.0),
                "logarithm": tf.where(n > 0, tf.math.log(n), x),
                "shares": tf.where(n > 0, tf.nn.softmax(hidden), 0.0),
                "safe": tf.math.divide_no_nan(x, n),
                "whole": tf.where(n > 0, tf.cast(x, tf.int64), 7),
                "yes": tf.where(n > 0, x > 0, n > -1),
            }

    module = Chosen()
    tf.saved_model.save(module, tmp_path / "saved")
    convert("tf", tmp_path / "saved", tmp_path / "out")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4)).astype(np.float32)
    n = rng.integers(-1, 3, (6, 4)).astype(np.float32)
    n[0] = 0  # all hidden
    found = OnnxSession(tmp_path / "out" / "onnx" / "model.onnx").run({"x": x, "n": n})
    for name, expected in module(x, n).items():
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)
