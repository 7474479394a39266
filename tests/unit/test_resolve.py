"""What a user gave: framework, kind and files, found once, without a framework."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from onnxport.errors import CheckpointError, UsageError
from onnxport.loading.options import LoadOptions, load_options
from onnxport.loading.resolve import HF_TENSORFLOW, ModelKind, has_tensorflow_classes, resolve_model
from tests.unit.checkpoints import folder, hdf5_bytes, write_json

__all__ = ["folder"]  # the fixture


def keras_file(path: Path) -> Path:
    """A `.keras` archive with the parts that one must have."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        archive.writestr("model.weights.h5", b"")
    return path


def test_a_checkpoint_of_pytorch(folder: Path) -> None:
    for framework in (None, "pt"):
        found = resolve_model(folder, framework)
        assert (found.kind, found.framework, found.environment) == (ModelKind.CHECKPOINT, "pt", None)
        assert found.checkpoint is not None and found.checkpoint.model_type == "bert"
        assert found.name == "model"


def test_a_checkpoint_of_tensorflow_needs_the_environment_that_has_its_classes(folder: Path) -> None:
    assert resolve_model(folder, "tf").framework == "tf"  # TF classes read PyTorch's weights
    (folder / "model.safetensors").unlink()
    (folder / "tf_model.h5").write_bytes(hdf5_bytes())
    found = resolve_model(folder)
    assert found.framework == "tf"
    assert found.environment == (None if has_tensorflow_classes() else HF_TENSORFLOW)
    with pytest.raises(CheckpointError, match="has only TensorFlow weights"):
        resolve_model(folder, "pt")


def test_files_of_tensorflow(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "net.keras")
    found = resolve_model(str(path))
    assert (found.kind, found.framework, found.name) == (ModelKind.TENSORFLOW_FILES, "tf", "net.keras")
    assert found.files is not None and found.files.kind == "keras"
    with pytest.raises(UsageError, match="a TensorFlow model"):
        resolve_model(path, "pt")


def test_a_metadata_file_makes_no_keras_preset_of_a_checkpoint(folder: Path) -> None:
    write_json(folder / "metadata.json", {"license": "mit"})
    found = resolve_model(folder)
    assert (found.kind, found.framework) == (ModelKind.CHECKPOINT, "pt")
    write_json(folder / "metadata.json", {"keras_version": "3.0.0"})
    (folder / "model.weights.h5").write_bytes(b"")
    assert resolve_model(folder).kind is ModelKind.TENSORFLOW_FILES


class Module:
    """Called like a torch module."""

    def __call__(self) -> None: ...


class Transformer(Module):
    """Has a config, as transformers' models have."""

    config = object()


class Keras(Module):
    """A class whose module is Keras'."""

    __module__ = "keras.src.models"


class KerasTransformer(Keras):
    """One of transformers' TF classes."""

    config = object()

    def save_pretrained(self) -> None: ...


@pytest.mark.parametrize(
    ("model", "sample", "kind", "framework"),
    [
        (Module(), None, ModelKind.MODULE, "pt"),
        (Transformer(), None, ModelKind.TRANSFORMERS_MODEL, "pt"),
        (Transformer(), [1.0], ModelKind.MODULE, "pt"),
        (Keras(), [1.0], ModelKind.KERAS_MODEL, "tf"),
        (KerasTransformer(), None, ModelKind.TRANSFORMERS_MODEL, "tf"),
    ],
)
def test_live_models(model: object, sample: object, kind: ModelKind, framework: str) -> None:
    found = resolve_model(model, None, sample_inputs=sample)
    assert (found.kind, found.framework, found.sample_inputs) == (kind, framework, sample)
    other = {"pt": "tf", "tf": "pt"}[framework]
    with pytest.raises(UsageError, match="a TensorFlow model"):
        resolve_model(model, other)


def test_what_does_not_fit_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Unknown framework 'jax'"):
        resolve_model(tmp_path, "jax")
    with pytest.raises(UsageError, match="is a path or a name"):
        resolve_model("user/model", sample_inputs=[1.0])
    with pytest.raises(UsageError, match="not by sample_inputs"):
        resolve_model(KerasTransformer(), sample_inputs=[1.0])


def test_options_are_sorted_by_what_they_are_for() -> None:
    found = load_options({"tokenizer": "t", "torch_dtype": "float16", "allow_pickle": True, "num_labels": 3})
    assert found == LoadOptions(
        allow_pickle=True, dtype="float16", components={"tokenizer": "t"}, model_kwargs={"num_labels": 3}
    )
    assert load_options({"torch_dtype": "float16", "dtype": "auto"}).dtype == "auto"
    assert found.chosen() == {"allow_pickle", "dtype", "tokenizer", "num_labels"}
    assert load_options({"tokenizer": None, "allow_pickle": False}).chosen() == set()


def test_no_framework_is_imported(folder: Path) -> None:
    code = (
        "import sys; from onnxport.loading.resolve import resolve_model; "
        f"resolve_model({str(folder)!r}); "
        "sys.exit(', '.join({'torch', 'tensorflow', 'transformers', 'keras'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
