"""Keras models: converted from files and from memory, compared with Keras at sizes that were not traced.

The sweep has the opsets between the first and the last.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxport import convert, convert_tensorflow, infer_shapes, verify
from onnxport.artifact.folder import read_folder
from onnxport.artifact.results import Conversion
from onnxport.errors import OnnxPortError, UntrustedCheckpointError, UsageError, VerificationError
from onnxport.runtime.session import OnnxSession
from tests import tiny_keras
from tests.sample import sampled
from tests.tiny_keras import keras, layers

pytestmark = pytest.mark.integration


def _specs(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    component = read_folder(folder).components[0]
    return {s.name: (s.dtype, s.axes) for s in component.inputs}, {s.name: s.axes for s in component.outputs}


def _run(folder: Path, **inputs: Any) -> dict[str, Any]:
    return OnnxSession(folder / "onnx" / "model.onnx").run(inputs)


def _close(found: Any, wanted: Any) -> None:
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5 * max(1.0, float(np.abs(wanted).max())))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Conversion]:
    """(a text classifier, the folder that its file became, the conversion)"""
    root = tmp_path_factory.mktemp("text")
    model = tiny_keras.text_classifier()
    model.save(root / "model.keras")
    conversion = convert(None, root / "model.keras", root / "out", use_external_format=True, quantize=True)
    return model, root / "out", conversion


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """(an image network, the folder with its file as model.keras and what that became as out)"""
    root = tmp_path_factory.mktemp("image")
    model = tiny_keras.image_network()
    model.save(root / "model.keras")
    assert convert("tf", root / "model.keras", root / "out").passed
    return model, root


def test_a_keras_file_with_named_inputs(text: tuple[Any, Path, Conversion]) -> None:
    model, folder, conversion = text
    assert conversion.passed
    assert [component.name for component in conversion.manifest.components] == ["model", "model_quantized"]
    manifest = conversion.manifest
    assert (manifest.framework, manifest.source, manifest.architecture) == ("tf", "model.keras", "Functional")
    assert {"tensorflow", "keras", "tf2onnx"} <= manifest.versions.keys()
    assert "torch" not in manifest.versions
    inputs, outputs = _specs(folder)
    assert inputs == {
        "ids": ("int32", ("batch_size", "sequence_length")),
        "mask": ("int32", ("batch_size", "sequence_length")),
    }
    assert outputs == {
        "scores": ("batch_size", 3),
        "hidden": ("batch_size", "sequence_length", 128),
    }
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 50, (4, 23)).astype("int32")  # no size that was probed or verified
    mask = np.ones_like(ids)
    mask[1:, 9:] = 0
    found, wanted = _run(folder, ids=ids, mask=mask), model({"ids": ids, "mask": mask}, training=False)
    _close(found["scores"], wanted["scores"])
    _close(found["hidden"], wanted["hidden"])


def test_the_weights_are_in_the_graph_once_and_no_name_of_tf2onnx_is_left(text: tuple[Any, Path, Conversion]) -> None:
    model, folder, _ = text
    graph = onnx.load(folder / "onnx" / "model.onnx").graph
    assert [value.name for value in graph.input] == ["ids", "mask"]
    assert [value.name for value in graph.output] == ["scores", "hidden"]
    axes = {d.dim_param for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim if d.dim_param}
    assert axes == {"batch_size", "sequence_length"}
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert 0.95 < stored / model.count_params() < 1.05  # what is folded, and shapes and scalars
    assert "Erf" in {node.op_type for node in graph.node}


def test_images_of_any_size(image: tuple[Any, Path]) -> None:
    model, root = image
    inputs, outputs = _specs(root / "out")
    assert inputs == {"image": ("float32", ("batch_size", "height", "width", 3))}
    assert outputs == {"scores": ("batch_size", 4)}
    value = np.random.default_rng(0).standard_normal((3, 77, 59, 3)).astype(np.float32)
    _close(_run(root / "out", image=value)["scores"], model(value, training=False))


def test_pixels_reach_255_where_the_model_divides_by_it(tmp_path: Path) -> None:
    from onnxport.loading.tensorflow_models import keras_parts

    ((part,), _) = keras_parts(tiny_keras.pixel_network())
    image = part.generator.make({"batch_size": 2})["input"]
    assert image.min() >= 0 and 200 < image.max() <= 255
    ((part,), _) = keras_parts(tiny_keras.image_network())
    assert part.generator.make({"batch_size": 2, "height": 64, "width": 64})["image"].min() < -1


@pytest.mark.parametrize(
    "make", [pytest.param(tiny_keras.recurrent, marks=pytest.mark.sweep), tiny_keras.masked_recurrent]
)
def test_recurrent_layers_of_any_length(tmp_path: Path, make: Any) -> None:
    model = make()
    convert(None, model, tmp_path / "out")
    inputs, _ = _specs(tmp_path / "out")
    ((name, (dtype, axes)),) = inputs.items()
    if make is tiny_keras.recurrent:
        assert read_folder(tmp_path / "out").components[0].operators["LSTM"] >= 1
    assert axes[:2] == ("batch_size", "sequence_length")
    rng = np.random.default_rng(1)
    value = rng.integers(0, 30, (4, 19)) if dtype == "int32" else rng.standard_normal((4, 19, 30))
    if dtype == "int32":
        value[1:, 6:] = 0  # what the layer skips
    value = value.astype(dtype)
    (found,) = _run(tmp_path / "out", **{name: value}).values()
    _close(found, model(value, training=False))


def test_lengths_that_may_differ_have_names_of_their_own(tmp_path: Path) -> None:
    model = tiny_keras.two_sequences()
    convert(None, model, tmp_path / "out")
    inputs, _ = _specs(tmp_path / "out")
    assert inputs["query"][1] == ("batch_size", "query_sequence_length", 8)
    assert inputs["value"][1] == ("batch_size", "value_sequence_length", 8)
    rng = np.random.default_rng(2)
    query, value = (rng.standard_normal((2, length, 8)).astype(np.float32) for length in (5, 14))
    (found,) = _run(tmp_path / "out", query=query, value=value).values()
    _close(found, model([query, value], training=False))


def test_a_subclassed_model_by_what_it_was_built_for(tmp_path: Path) -> None:
    model = tiny_keras.subclassed()
    model.save(tmp_path / "model.keras")
    conversion = convert(None, tmp_path / "model.keras", tmp_path / "out")
    assert any("declares no inputs" in note for note in conversion.manifest.notes)
    inputs, outputs = _specs(tmp_path / "out")
    assert inputs["ids"] == ("int32", ("batch_size", "sequence_length"))
    assert outputs["hidden"] == ("batch_size", "sequence_length", 16)
    ids = np.random.default_rng(4).integers(0, 40, (3, 13)).astype("int32")
    mask = np.ones_like(ids)
    _close(_run(tmp_path / "out", ids=ids, mask=mask)["scores"], model({"ids": ids, "mask": mask})["scores"])


def test_sample_inputs_of_a_live_model(tmp_path: Path) -> None:
    model = tiny_keras.Subclassed()
    sample = {"ids": np.ones((2, 7), "int64"), "mask": np.ones((2, 7), "int64")}
    model(sample)
    convert(None, model, tmp_path / "out", sample_inputs=sample)
    inputs, _ = _specs(tmp_path / "out")
    assert [spec[0] for spec in inputs.values()] == ["int64", "int64"]
    ids = np.random.default_rng(4).integers(0, 40, (3, 13))
    mask = np.ones_like(ids)
    _close(_run(tmp_path / "out", ids=ids, mask=mask)["scores"], model({"ids": ids, "mask": mask})["scores"])


@pytest.mark.sweep
@pytest.mark.parametrize("opset", sampled([13, 15, 18, 21], 13))
def test_opsets(tmp_path: Path, opset: int) -> None:
    model = tiny_keras.image_network()
    verification = convert_tensorflow(model, opset, tmp_path / "m.onnx")
    assert verification.passed and verification.source.startswith("tensorflow ")
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == opset


@pytest.mark.sweep
def test_an_old_h5_file_of_a_whole_model(tmp_path: Path) -> None:
    model = tiny_keras.image_network()
    model.save(tmp_path / "model.h5")
    convert(None, tmp_path / "model.h5", tmp_path / "out")
    value = np.random.default_rng(5).standard_normal((2, 41, 37, 3)).astype(np.float32)
    (found,) = _run(tmp_path / "out", image=value).values()
    _close(found, model(value, training=False))


def test_weights_beside_the_graph_and_the_same_bytes_twice(text: tuple[Any, Path, Conversion], tmp_path: Path) -> None:
    model, folder, _ = text
    for name in ("a", "b"):
        convert(None, model, tmp_path / name, use_external_format=True)
    for file in ("model.onnx", "model.onnx_data"):
        first, second = ((tmp_path / name / "onnx" / file).read_bytes() for name in ("a", "b"))
        assert first == second and first
    assert (folder / "onnx" / "model.onnx_data").is_file()


@pytest.mark.sweep
def test_verify_tells_another_model(image: tuple[Any, Path], tmp_path: Path) -> None:
    _, root = image
    assert verify(root / "out", root / "model.keras").ok
    other = tiny_keras.image_network()
    other.set_weights([2 * weight for weight in other.get_weights()])
    other.save(tmp_path / "other.keras")
    with pytest.raises(VerificationError, match="disagrees"):
        verify(root / "out", tmp_path / "other.keras")


class Drawing(keras.layers.Layer):  # type: ignore[misc]
    """Another number at every call: no graph can agree with it."""

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal((1,))


def test_a_model_that_no_graph_agrees_with_is_not_published(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), Drawing()])
    with pytest.raises(OnnxPortError, match=r"published|written"):
        convert(None, model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class Fourier(keras.layers.Layer):  # type: ignore[misc]
    """An operator that ONNX lacks."""

    def call(self, inputs: Any) -> Any:
        return tiny_keras.tf.math.special.bessel_i0(inputs)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), Fourier()])
    with pytest.raises(OnnxPortError, match="no operator for TensorFlow's BesselI0"):
        convert(None, model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def _refused(path: Path, tmp_path: Path, **settings: Any) -> OnnxPortError:
    with pytest.raises(OnnxPortError) as caught:
        convert(None, path, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    return caught.value


def test_python_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    model = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: x * 2)])
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        error = _refused(tmp_path / name, tmp_path)
        assert isinstance(error, UntrustedCheckpointError) and "--trust-remote-code" in str(error)
    assert not mark.exists()
    assert convert(None, tmp_path / "m.keras", tmp_path / "out", trust_remote_code=True).passed


def test_a_class_that_is_not_registered_is_named(tmp_path: Path) -> None:
    # Of a program that is not here: Keras looks for classes where their module was.
    mine = type("Mine", (layers.Layer,), {"call": lambda self, x: x * 2, "__module__": "__main__"})
    keras.Sequential([keras.Input((3,)), mine()]).save(tmp_path / "m.keras")
    error = _refused(tmp_path / "m.keras", tmp_path)
    assert "Mine" in error.message and "convert(None, keras.saving.load_model" in str(error.hint)


def test_broken_files(tmp_path: Path) -> None:
    tiny_keras.recurrent().save(tmp_path / "whole.keras")
    content = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    assert "cut off" in _refused(tmp_path / "cut.keras", tmp_path).message
    (tmp_path / "text.h5").write_text("no HDF5")
    assert "no HDF5 file" in _refused(tmp_path / "text.h5", tmp_path).message
    tiny_keras.recurrent().save(tmp_path / "whole.h5")
    content = (tmp_path / "whole.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    assert "cannot be loaded by Keras" in _refused(tmp_path / "cut.h5", tmp_path).message
    tiny_keras.recurrent().save_weights(tmp_path / "only.weights.h5")
    assert "weights alone" in _refused(tmp_path / "only.weights.h5", tmp_path).message


def test_a_wrong_framework_or_task_is_told(tmp_path: Path) -> None:
    tiny_keras.recurrent().save(tmp_path / "m.keras")
    with pytest.raises(UsageError, match="TensorFlow model"):
        convert("pt", tiny_keras.recurrent(), tmp_path / "out")
    with pytest.raises(UsageError, match="cannot be converted for the task fill-mask"):
        convert(None, tmp_path / "m.keras", tmp_path / "out", pipeline_name="fill-mask")
    with pytest.raises(UsageError, match="declares no inputs"):
        convert(None, tiny_keras.Subclassed(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_infer_shapes(text: tuple[Any, Path, Conversion]) -> None:
    model, folder, _ = text
    inputs, outputs, dynamic, sample = infer_shapes(model, "tf")
    assert (inputs, outputs) == (["ids", "mask"], ["scores", "hidden"])
    assert dynamic["ids"] == {0: "batch_size", 1: "sequence_length"}
    assert dynamic["scores"] == {0: "batch_size"}
    assert set(model(sample)) == {"scores", "hidden"}
    assert infer_shapes(folder.parent / "model.keras", "tf")[2] == dynamic


def test_run_on_numbers(text: tuple[Any, Path, Conversion], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onnxport.cli.main import main

    model, folder, _ = text
    ids = np.arange(10, dtype="int32").reshape(2, 5)
    np.savez(tmp_path / "inputs.npz", ids=ids, mask=np.ones_like(ids))
    assert main(["run", str(folder), str(tmp_path / "inputs.npz"), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    _close(np.array(result["output"]["scores"]), model({"ids": ids, "mask": np.ones_like(ids)})["scores"])
    np.save(tmp_path / "ids.npy", ids)
    for wrong, said in (("ids.npy", "one array, but the graph has 2 inputs"), ("A text", "takes arrays (ids, mask)")):
        assert main(["run", str(folder), str(tmp_path / wrong)]) == 2
        assert said in capsys.readouterr().err
    card = (folder / "README.md").read_text()
    assert "onnxport run out inputs.npz" in card and "pipeline(" not in card


@pytest.mark.sweep
def test_the_command_line_is_quiet(text: tuple[Any, Path, Conversion], tmp_path: Path) -> None:
    words = [text[1].parent / "model.keras", tmp_path / "out", "--json"]
    done = subprocess.run([sys.executable, "-m", "onnxport", "convert", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["framework"] == "tf" and document["passed"]
    lines = done.stderr.splitlines()
    assert lines[0].startswith(("✓ Load", "ok Load"))
    assert not [line for line in lines if "WARNING" in line or "oneDNN" in line or "cuda" in line.lower()]
