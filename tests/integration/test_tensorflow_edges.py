"""Models of TensorFlow as users have them, beside the plain ones: types, names, states, chance, old formats."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport import convert
from onnxport.errors import ExportError, OnnxPortError, UntrustedCheckpointError, UsageError
from onnxport.runtime.session import OnnxSession
from tests import tiny_keras
from tests.integration.test_tensorflow_numbers import Function, agree, model_of
from tests.tiny_keras import keras, layers, tf

pytestmark = pytest.mark.integration


def _random(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _saved(folder: Path, function: Callable[..., Any], *shape: int | None) -> tuple[Path, Any]:
    """A SavedModel of one function of floats called x, and the module."""
    module = tf.Module()
    module.f = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
    tiny_keras.saved_model(folder, module, serving_default=module.f)
    return folder, module


def test_strides_and_images_made_larger(tmp_path: Path) -> None:
    """Sizes of outputs at odd sizes of images, and Keras' question whether a size is positive."""
    image = keras.Input((None, None, 3), name="image")
    half = layers.Conv2D(4, 3, strides=2)(image)
    hidden = layers.Conv2D(3, 3, padding="same")(layers.MaxPooling2D(3, 2, "same")(image))
    double = layers.UpSampling2D(2, interpolation="bilinear")(hidden)
    session = agree(keras.Model([image], [half, double]), tmp_path / "out", _random(2, 45, 38, 3))
    assert [spec.axes[1] for spec in session.outputs] == ["(height - 1) // 2", "2 * ((height + 1) // 2)"]


def test_pairs_of_axes_of_an_attention_mask(tmp_path: Path) -> None:
    x, k = keras.Input((None, 6), name="x"), keras.Input((None, 6), name="k")
    mask = keras.Input((None, None), dtype="bool", name="allowed")
    model = keras.Model([x, k, mask], layers.MultiHeadAttention(2, 4)(x, k, attention_mask=mask))
    allowed = np.random.default_rng(0).random((2, 9, 4)) < 0.6
    session = agree(model, tmp_path / "out", _random(2, 9, 6), _random(2, 4, 6), allowed)
    assert session.inputs[2].axes == ("batch_size", "x_sequence_length", "k_sequence_length")


def test_an_input_that_is_an_output_too(tmp_path: Path) -> None:
    x = keras.Input((3,), name="x")
    session = agree(keras.Model([x], [x, layers.Dense(2, name="y")(x)]), tmp_path / "out", _random(2, 3))
    assert [spec.name for spec in session.outputs] == ["x_output", "y"]
    folder, _ = _saved(tmp_path / "model", lambda x: {"x": 2 * x}, None)
    convert(None, folder, tmp_path / "other")
    assert OnnxSession(tmp_path / "other").run({"x": np.ones(2, np.float32)})["x_output"].tolist() == [2, 2]


def test_half_precision_has_its_own_tolerance(tmp_path: Path) -> None:
    x = keras.Input((8,), name="x")
    hidden = layers.Dense(16, activation="gelu", dtype="mixed_float16")(x)
    model = keras.Model(x, layers.Dense(4, dtype="float32")(hidden))
    check = convert(None, model, tmp_path / "out").manifest.components[0].verification
    assert check is not None and (check.absolute_tolerance, check.relative_tolerance) == (1e-3, 1e-2)
    x = keras.Input((8,), name="x")
    model = keras.Model(x, layers.Dense(4, dtype="mixed_bfloat16")(x))
    with pytest.raises(UsageError, match="bfloat16") as caught:
        convert(None, model, tmp_path / "other")
    assert "dtype_policy = 'float32'" in str(caught.value.hint)
    for layer in model._flatten_layers():  # what the hint says
        layer.dtype_policy = "float32"
    assert convert(None, model, tmp_path / "other").passed


def test_a_state_from_call_to_call(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input(batch_shape=(2, 5, 3)), layers.LSTM(4, stateful=True)])
    with pytest.raises(ExportError, match=r"keeps something between calls \(.*rnn_state\)"):
        convert(None, model, tmp_path / "out")
    module = tf.Module()
    module.count = tf.Variable(0.0)

    def counted(x: Any) -> Any:
        module.count.assign_add(1.0)
        return {"y": x + module.count}

    module.f = tf.function(counted, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tiny_keras.saved_model(tmp_path / "model", module, serving_default=module.f)
    with pytest.raises(ExportError, match=r"keeps something between calls \(.* Nothing was written"):
        convert(None, tmp_path / "model", tmp_path / "out")


def test_random_numbers_however_small(tmp_path: Path) -> None:
    model = model_of(lambda x: x + 1e-6 * tf.random.normal(tf.shape(x)), x=((4,), "float32"))
    with pytest.raises(ExportError, match="draws random numbers"):
        convert(None, model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_strings_are_told_before_anything_is_run(tmp_path: Path) -> None:
    x = keras.Input((1,), dtype="string", name="words")
    model = keras.Model(x, layers.StringLookup(vocabulary=["a", "b"])(x))
    with pytest.raises(UsageError, match="'words' is a plain tensor of string"):
        convert(None, model, tmp_path / "out")


def test_an_error_is_words_without_colours(tmp_path: Path) -> None:
    model = model_of(lambda x: tf.reshape(x, [7, 3]), x=((None,), "float32"))
    with pytest.raises(OnnxPortError) as caught:
        convert(None, model, tmp_path / "out")
    assert "inputs of its declared shapes and types: " in caught.value.message
    assert "\x1b" not in caught.value.message and "function_node" not in caught.value.message


def test_another_shape_is_told_as_that(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3), name="image")
    with pytest.raises(OnnxPortError, match=r"output is float32 \[.*the source's is float32 \[2, 120, 120, 3\]"):
        convert(None, keras.Model(image, layers.CenterCrop(120, 120)(image)), tmp_path / "out")


def test_signatures_whose_names_are_one_file_name(tmp_path: Path) -> None:
    module = tf.Module()
    spec = [tf.TensorSpec([None], tf.float32, name="x")]
    module.a = tf.function(lambda x: {"y": 2 * x}, input_signature=spec)
    module.b = tf.function(lambda x: {"y": 3 * x}, input_signature=spec)
    tiny_keras.saved_model(tmp_path / "model", module, **{"a/b": module.a, "a-b": module.b})
    parts = convert(None, tmp_path / "model", tmp_path / "out").manifest.components
    assert [part.name for part in parts] == ["a_b", "a_b_2"]
    x = np.ones(1, np.float32)
    assert {float(OnnxSession(tmp_path / "out" / part.file).run({"x": x})["y"][0]) for part in parts} == {2, 3}


def test_variables_that_are_nodes_of_a_graph_of_tensorflow_1(tmp_path: Path) -> None:
    """What `reference_variables` is for, and a second graph for training."""
    v1, weight = tf.compat.v1, _random(4, 3)
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], "inp")
        y = tf.identity(x @ v1.get_variable("w", initializer=weight, use_resource=False))
        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.signature_def_utils.build_signature_def(
            {"x": info(x)}, {"y": info(y)}, "tensorflow/serving/predict"
        )
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.builder.SavedModelBuilder(str(tmp_path / "model"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.add_meta_graph(["train"], {"serving_default": signature})
        builder.save()
    convert(None, tmp_path / "model", tmp_path / "out")
    x = _random(5, 4)
    np.testing.assert_allclose(OnnxSession(tmp_path / "out").run({"x": x})["y"], x @ weight, atol=1e-5)


def test_what_reaches_out_is_found_in_text_too(tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    written = tmp_path / "written"

    def write(x: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(str(written), "here")]):
            return {"y": tf.identity(x)}

    folder, _ = _saved(tmp_path / "model", write, None)
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    with pytest.raises(UntrustedCheckpointError, match="WriteFile"):
        convert(None, folder, tmp_path / "out")
    folder, _ = _saved(tmp_path / "printing", lambda x: {"y": _printed(x, f"file://{written}")}, None)
    with pytest.raises(UntrustedCheckpointError, match="PrintV2"):
        convert(None, folder, tmp_path / "out")
    assert not written.exists()


def _printed(x: Any, where: str) -> Any:
    with tf.control_dependencies([tf.print("here", output_stream=where)]):
        return tf.identity(x)


def test_outputs_of_a_signature_in_the_same_order_every_time(tmp_path: Path) -> None:
    names = ["y_10", "y_2", "b", "a", "y_1"]
    folder, _ = _saved(tmp_path / "model", lambda x: {name: number * x for number, name in enumerate(names, 1)}, None)
    (part,) = convert(None, folder, tmp_path / "out").manifest.components
    assert [spec.name for spec in part.outputs] == ["a", "b", "y_1", "y_2", "y_10"]


def test_an_output_that_is_empty_for_some_inputs(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    model = keras.Model([x], Function(lambda x: tf.boolean_mask(x, x[:, 0] > 0))(x))
    agree(model, tmp_path / "out", np.concatenate([_random(3, 4), -np.abs(_random(1, 4))]))


def test_what_a_model_prints_is_no_data(tmp_path: Path) -> None:
    def noisy(x: Any) -> Any:
        with tf.control_dependencies([tf.print("printed", output_stream=sys.stdout)]):
            return {"y": tf.identity(x)}

    folder, _ = _saved(tmp_path / "model", noisy, None)
    command = [sys.executable, "-m", "onnxport", "convert", str(folder), str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(done.stdout)["passed"] and "printed" in done.stderr
    done = subprocess.run([*command, "--framework", "pt", "--overwrite"], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and "is a Keras file or a SavedModel: a TensorFlow model" in json.loads(done.stdout)["error"]["message"]
    )


def test_a_generator_that_no_output_depends_on(tmp_path: Path) -> None:
    """Some layers of Keras ask for a random number that they do not use when they are not trained."""
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.RandomGrayscale(), layers.Flatten()])
    agree(model, tmp_path / "out", _random(2, 8, 8, 3))
