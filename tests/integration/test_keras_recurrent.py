"""Recurrent layers of Keras: one operator each, with Keras' numbers whatever a mask skips.

`make test` has the models that put the most together; the others are for the sweep.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport import convert
from onnxport.artifact.folder import read_folder
from onnxport.runtime.session import OnnxSession
from onnxport.sources.tensorflow.source import tensorflow
from tests.sample import sampled

pytestmark = pytest.mark.integration
tensorflow()

import keras  # noqa: E402
from keras import layers as kl  # noqa: E402

_LOOPS = {"Loop", "Scan", "If"}


def words(*layers: Any) -> keras.Model:
    """Tokens, of which 0 is masked."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    return _chained(ids, kl.Embedding(50, 8, mask_zero=True), *layers)


def numbers(*layers: Any, shape: tuple[int | None, ...] = (None, 6)) -> keras.Model:
    return _chained(keras.Input(shape, name="x"), *layers)


def _chained(first: Any, *layers: Any) -> keras.Model:
    value = first
    for layer in layers:
        value = layer(value)
    return keras.Model(first, value)


MODELS = {
    "gru": (lambda: numbers(kl.GRU(8, return_sequences=True), kl.GRU(5, reset_after=False)), {"GRU": 2}),
    "no bias": (lambda: numbers(kl.GRU(8, use_bias=False, return_sequences=True), kl.LSTM(4, use_bias=False)),
                {"GRU": 1, "LSTM": 1}),
    "activations": (
        lambda: numbers(kl.LSTM(8, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True),
                        kl.GRU(5, activation="linear")), {"GRU": 1, "LSTM": 1}),
    "both directions": (
        lambda: numbers(kl.Bidirectional(kl.GRU(8, return_sequences=True)), kl.Bidirectional(kl.LSTM(4))),
        {"GRU": 2, "LSTM": 2}),
    "states": (lambda: numbers(kl.LSTM(8, return_sequences=True, return_state=True)), {"LSTM": 1}),
    "masked": (lambda: words(kl.LSTM(8, return_sequences=True), kl.GRU(4, return_sequences=True)),
               {"GRU": 1, "LSTM": 1}),
    "masked states": (lambda: words(kl.GRU(4, return_state=True)), {"GRU": 1}),
    "masked, both directions": (
        lambda: words(kl.Bidirectional(kl.LSTM(8, return_sequences=True)), kl.Bidirectional(kl.GRU(4))),
        {"GRU": 2, "LSTM": 2}),
    "steps as rows": (
        lambda: numbers(kl.TimeDistributed(kl.GRU(5)), kl.TimeDistributed(kl.Dense(3)), kl.LSTM(4),
                        shape=(None, 2, 6)), {"GRU": 1, "LSTM": 1}),
    "fixed steps as rows": (lambda: numbers(kl.TimeDistributed(kl.Conv1D(5, 3)), shape=(4, 7, 6)), {"Conv": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", sampled(MODELS, "states"))
def test_numbers_are_those_of_keras(name: str, tmp_path: Path) -> None:
    build, wanted = MODELS[name]
    keras.utils.set_random_seed(0)
    model = build()
    convert("tf", model, tmp_path / "out")
    operators = read_folder(tmp_path / "out").components[0].operators
    assert {kind: operators.get(kind) for kind in wanted} == wanted and not _LOOPS & operators.keys()
    session = OnnxSession(tmp_path / "out" / "onnx" / "model.onnx")
    (spec,) = session.inputs
    rng = np.random.default_rng(1)
    for rows, steps in ((1, 1), (4, 17), (6, 3)):
        shape = [
            rows if not index else steps if isinstance(axis, str) else axis for index, axis in enumerate(spec.axes)
        ]
        if spec.name == "ids":
            given = rng.integers(1, 50, shape)
            given[rng.random(shape) < 0.4] = 0  # before, between and behind words
            given[-1] = 0  # none at all
        else:
            given = rng.standard_normal(shape)
        given = given.astype(spec.dtype)
        expected = [value.numpy() for value in keras.tree.flatten(model(given))]
        found = list(session.run({spec.name: given}).values())
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.sweep
def test_what_the_operator_cannot_do_stays_a_loop(tmp_path: Path) -> None:
    """Another activation, and a layer of cells."""
    keras.utils.set_random_seed(0)
    model = numbers(kl.GRU(8, activation="softsign", return_sequences=True), kl.RNN(kl.GRUCell(4)))
    convert("tf", model, tmp_path / "out")
    assert read_folder(tmp_path / "out").components[0].operators["Loop"] == 2
    given = np.random.default_rng(0).standard_normal((3, 9, 6)).astype(np.float32)
    (found,) = OnnxSession(tmp_path / "out" / "onnx" / "model.onnx").run({"x": given}).values()
    np.testing.assert_allclose(found, model(given), atol=1e-5)


@pytest.mark.sweep
def test_layers_are_as_they_were(tmp_path: Path) -> None:
    methods = kl.GRU.inner_loop, kl.LSTM.inner_loop, kl.TimeDistributed.call
    model = numbers(kl.GRU(4))
    convert("tf", model, tmp_path / "out")
    assert (kl.GRU.inner_loop, kl.LSTM.inner_loop, kl.TimeDistributed.call) == methods
