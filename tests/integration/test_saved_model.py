"""SavedModels: their signatures, compared with TensorFlow at sizes that were not traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport import convert
from onnxport.errors import CheckpointError, OnnxPortError, UntrustedCheckpointError, UsageError
from onnxport.runtime.session import OnnxSession
from tests import tiny_keras
from tests.tiny_keras import keras, tf

pytestmark = pytest.mark.integration


def test_all_signatures_with_the_weights_stored_once(tmp_path: Path) -> None:
    module = tiny_keras.WithSignatures()
    tiny_keras.saved_model(tmp_path / "model", module)
    conversion = convert(None, tmp_path / "model", tmp_path / "out", use_external_format=True)
    assert conversion.passed
    assert [component.name for component in conversion.manifest.components] == ["model", "back"]
    first, second = conversion.manifest.components
    assert [spec.name for spec in first.inputs] == ["x"]
    assert {spec.name: spec.axes for spec in first.outputs} == {
        "features": ("batch_size * sequence_length", 160),
        "sums": ("batch_size", "sequence_length"),
    }
    weights = 128 * 160 * 4
    assert sum(file.stat().st_size for file in (tmp_path / "out" / "onnx").glob("*_data")) < 1.2 * weights
    x = np.random.default_rng(0).standard_normal((3, 13, 128)).astype(np.float32)
    found = OnnxSession(tmp_path / "out" / first.file).run({"x": x})
    wanted = module.features(x)
    np.testing.assert_allclose(found["features"], wanted["features"], atol=1e-4)
    np.testing.assert_allclose(found["sums"], wanted["sums"], atol=1e-4)
    y = np.random.default_rng(1).standard_normal((4, 160)).astype(np.float32)
    found = OnnxSession(tmp_path / "out" / second.file).run({"y": y})
    np.testing.assert_allclose(found["x"], module.back(y)["x"], atol=1e-4)


def test_one_signature_is_chosen(tmp_path: Path) -> None:
    tiny_keras.saved_model(tmp_path / "model")
    conversion = convert("tf", tmp_path / "model", tmp_path / "one" / "back.onnx", signature="back")
    (component,) = conversion.manifest.components
    assert [spec.name for spec in component.inputs] == ["y"]
    with pytest.raises(UsageError, match="no signature 'bak'") as caught:
        convert("tf", tmp_path / "model", tmp_path / "out", signature="bak")
    assert "back" in str(caught.value.hint)
    with pytest.raises(UsageError, match="one file"):
        convert("tf", tmp_path / "model", tmp_path / "two" / "both.onnx")


def test_a_signature_under_two_names_is_one_graph(tmp_path: Path) -> None:
    model = tiny_keras.text_classifier()
    model.export(tmp_path / "model", verbose=False)  # Keras names it serve and serving_default
    conversion = convert(None, tmp_path / "model", tmp_path / "out")
    assert [component.name for component in conversion.manifest.components] == ["model"]
    assert any("'serve' computes the same" in note for note in conversion.manifest.notes)


def test_signatures_that_differ_in_a_number_alone_are_two(tmp_path: Path) -> None:
    class Two(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            spec = tf.TensorSpec([None, 4], tf.float32, name="x")
            self.once = tf.function(lambda x: {"y": x * 2.0}, input_signature=[spec])
            self.twice = tf.function(lambda x: {"y": x * 3.0}, input_signature=[spec])

    module = Two()
    tiny_keras.saved_model(tmp_path / "model", module, serving_default=module.once, other=module.twice)
    conversion = convert(None, tmp_path / "model", tmp_path / "out")
    assert [component.name for component in conversion.manifest.components] == ["model", "other"]
    x = np.ones((1, 4), np.float32)
    files = [tmp_path / "out" / component.file for component in conversion.manifest.components]
    assert [float(OnnxSession(file).run({"x": x})["y"][0, 0]) for file in files] == [2.0, 3.0]


def test_one_that_keras_2_saved_with_its_optimizer(tmp_path: Path) -> None:
    """What `saved_optimizers` registers: without it TensorFlow fails with "no attribute 'add_slot'"."""
    from onnxport.sources.tensorflow.saved_optimizers import register_saved_optimizers
    from tests.real.test_basic_pitch import SAVED_MODEL

    register_saved_optimizers()
    assert tf.saved_model.load(str(SAVED_MODEL)).signatures


def _refused(path: Path, tmp_path: Path, kind: type[OnnxPortError], **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        convert(None, path, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def test_without_signatures(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "model"))
    assert "without signatures" in _refused(tmp_path / "model", tmp_path, CheckpointError)


def test_inputs_that_are_no_numbers(tmp_path: Path) -> None:
    module = tf.Module()
    module.f = tf.function(
        lambda text: {"length": tf.strings.length(text)},
        input_signature=[tf.TensorSpec([None], tf.string, name="text")],
    )
    tiny_keras.saved_model(tmp_path / "model", module, serving_default=module.f)
    assert "'text'" in _refused(tmp_path / "model", tmp_path, UsageError)


def test_an_operator_that_reaches_out_of_the_model(tmp_path: Path) -> None:
    module = tf.Module()
    spec = [tf.TensorSpec([None], tf.float32, name="x")]
    written = tmp_path / "written"

    def write(x: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(str(written), "here")]):
            return {"y": tf.identity(x)}

    module.f = tf.function(write, input_signature=spec)
    tiny_keras.saved_model(tmp_path / "model", module, serving_default=module.f)
    assert "WriteFile" in _refused(tmp_path / "model", tmp_path, UntrustedCheckpointError)
    assert not written.exists()


def test_a_damaged_folder(tmp_path: Path) -> None:
    tiny_keras.saved_model(tmp_path / "model")
    (tmp_path / "model" / "variables" / "variables.index").unlink()
    assert "variables.index is missing" in _refused(tmp_path / "model", tmp_path, CheckpointError)
    tiny_keras.saved_model(tmp_path / "other")
    graph = tmp_path / "other" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-200])
    assert "cannot be loaded as a SavedModel" in _refused(tmp_path / "other", tmp_path, CheckpointError)


def test_an_exported_network_for_images(tmp_path: Path) -> None:
    model = tiny_keras.image_network()
    model.export(tmp_path / "model", verbose=False)
    convert(None, tmp_path / "model", tmp_path / "out")
    image = np.random.default_rng(0).standard_normal((2, 50, 71, 3)).astype(np.float32)
    (found,) = OnnxSession(tmp_path / "out" / "onnx" / "model.onnx").run({"image": image}).values()
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(image, training=False)), atol=1e-5)
