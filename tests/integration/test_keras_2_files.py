"""Files that Keras 2 wrote: read by Keras 2, in the managed environment where it is not installed.

Each conversion is a process there; a `.keras` file of Keras 2 is for the sweep.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from onnxport import convert
from onnxport.environments.places import HOME_VARIABLE
from onnxport.errors import CheckpointError
from onnxport.loading.resolve import HF_TENSORFLOW, resolve_model
from onnxport.runtime.session import OnnxSession
from onnxport.sources.tensorflow.keras_2 import is_of_keras_2
from tests.integration.hf_tensorflow import VARIABLE, call, needs_tensorflow, process
from tests.sample import sampled
from tests.tiny_keras import recurrent

pytestmark = pytest.mark.integration

_MAKE = """
import sys, numpy as np, tf_keras as keras
from tf_keras import layers
folder = sys.argv[1]
keras.utils.set_random_seed(0)
ids = keras.Input((None,), dtype="int32", name="ids")
text = keras.Model(ids, layers.Dense(3, name="scores")(layers.LSTM(5)(layers.Embedding(30, 6, mask_zero=True)(ids))))
image = keras.Sequential([keras.Input((None, None, 3)), layers.DepthwiseConv2D(3, 2), layers.GlobalMaxPooling2D()])
code = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: x * 2)])
given = {"text": np.array([[3, 4, 0, 0], [5, 6, 7, 29]], "int32")}
given["image"] = np.random.default_rng(0).standard_normal((2, 21, 18, 3)).astype("float32")
for name, model in (("text", text), ("image", image), ("code", code)):
    for kind in ("h5", "keras"):
        model.save(f"{folder}/{name}.{kind}")
    if name in given:
        np.savez(f"{folder}/{name}.npz", given=given[name], wanted=model(given[name], training=False).numpy())
text.save_weights(f"{folder}/only.h5")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras_2")
    process("-c", _MAKE, str(folder))
    return folder


@needs_tensorflow
@pytest.mark.parametrize("name", sampled(["text.h5", "image.keras"], "text.h5"))
def test_converted_where_keras_2_is(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(HOME_VARIABLE, os.environ[VARIABLE])
    conversion = convert(None, files / name, tmp_path / "out")
    assert conversion.passed and "tf_keras" in conversion.manifest.versions
    numbers = np.load((files / name).with_suffix(".npz"))
    session = OnnxSession(tmp_path / "out")
    assert session.inputs[0].name == ("ids" if name.startswith("text") else "input")
    (found,) = session.run({session.inputs[0].name: numbers["given"]}).values()
    np.testing.assert_allclose(found, numbers["wanted"], atol=1e-5)


@needs_tensorflow
def test_code_in_them_is_not_run_and_weights_alone_are_refused(files: Path, tmp_path: Path) -> None:
    """Called there, in one process: that files are sent there is tested above."""
    code, only = files / "code.h5", files / "only.h5"
    refused, alone, trusted = call(
        {"model": code, "output": tmp_path / "refused"},
        {"model": only, "output": tmp_path / "refused"},
        {"model": code, "output": tmp_path / "out", "trust_remote_code": True},
    )
    assert refused["error"] == "UntrustedCheckpointError" and "a Lambda layer" in refused["message"]
    assert alone["error"] == "CheckpointError" and "holds weights alone" in alone["message"]
    assert trusted["passed"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def _as_keras_2_writes_it(path: Path) -> Path:
    """A file of Keras 3, with the version and an argument of Keras 2."""
    recurrent().save(path)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "GRU":
                layer["config"]["time_major"] = False
        file.attrs["keras_version"], file.attrs["model_config"] = "2.15.0", json.dumps(config)
    return path


def test_without_keras_2_the_command_that_gets_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    path = _as_keras_2_writes_it(tmp_path / "old.h5")
    assert is_of_keras_2(path) and resolve_model(path).environment is None
    with pytest.raises(CheckpointError, match="was written by Keras 2") as caught:
        convert(None, path, tmp_path / "out")
    assert HF_TENSORFLOW in str(caught.value.hint) and "\n" not in caught.value.message
    recurrent().save(tmp_path / "new.keras")
    assert not is_of_keras_2(tmp_path / "new.keras") and not is_of_keras_2(tmp_path / "nothing.h5")
