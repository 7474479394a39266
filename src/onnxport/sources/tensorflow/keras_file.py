"""Keras models from files: `.keras`, whole models in old `.h5` files, and presets of KerasHub."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from onnxport.checkpoints.tensorflow_files import TensorflowFiles
from onnxport.errors import CheckpointError, MissingDependencyError, OnnxPortError, UntrustedCheckpointError
from onnxport.formats.json_file import read_object
from onnxport.sources.tensorflow import keras_2
from onnxport.sources.tensorflow.keras import require_tensorflow_backend
from onnxport.system.library_errors import first_line

_PIP_NAMES = {"keras_hub": "keras-hub"}
_CLASS = re.compile(r"(?:locate (?:class|function)|Unknown layer:?|Could not locate \w+) '?\"?([\w>.]+)")


def load_keras_model(files: TensorflowFiles, *, trust_remote_code: bool = False) -> Any:
    """The model of a file or a preset.

    Raises:
        UntrustedCheckpointError: it holds Python code (a Lambda layer), and running it was not allowed.
        CheckpointError: it is broken, holds weights alone, or is made of classes that are not known here.
        MissingDependencyError: a library that defines its classes is not installed.
    """
    require_tensorflow_backend()
    import keras

    for name in files.libraries:
        _import(name, files)
    old = False
    try:
        if files.kind == "keras_hub":
            return _preset(files)
        old = keras_2.is_of_keras_2(files.path)
        if old and keras_2.can_load():
            return keras_2.load(files.path, trusted=trust_remote_code)
        with _weights_through_disk():
            return keras.saving.load_model(files.path, compile=False, safe_mode=not trust_remote_code)
    except OnnxPortError:
        raise
    except Exception as error:  # Keras fails with any type; ours says what to do
        raise _failure(files, error, old=old) from error


@contextmanager
def _weights_through_disk() -> Iterator[None]:
    """Keras unpacks the weights of a `.keras` file into a temporary file instead of into memory.

    In memory it holds them twice beside the model: 3.3 times the weights of a 2.4 GB model, 1.2 times this way.
    """
    from keras.src.saving import saving_lib

    switch = "is_memory_sufficient"  # Keras' own question; another version that does not ask it takes more memory
    original = getattr(saving_lib, switch, None)
    if original is None:
        yield
        return
    setattr(saving_lib, switch, lambda _model: False)
    try:
        yield
    finally:
        setattr(saving_lib, switch, original)


def _import(name: str, files: TensorflowFiles) -> None:
    if importlib.util.find_spec(name) is None:
        raise MissingDependencyError(
            f"{files.path.name} is made of classes of {name}, which is not installed.",
            hint=f"pip install {_PIP_NAMES[name]}",
        )
    import_module(name)


def _preset(files: TensorflowFiles) -> Any:
    """A task with its head where the folder has one, else the backbone; without its preprocessing."""
    import keras_hub

    task = files.path / "task.json"
    if not task.is_file():
        return keras_hub.models.Backbone.from_preset(str(files.path))
    name = str(read_object(task).get("class_name"))
    kind: Any = getattr(keras_hub.models, name, None)
    known = isinstance(kind, type) and issubclass(kind, keras_hub.models.Task)
    if not known:
        raise CheckpointError(
            f"{files.path} holds a {name}, which the installed KerasHub does not know.",
            hint="pip install --upgrade keras-hub",
        )
    return kind.from_preset(str(files.path))


def _failure(files: TensorflowFiles, error: Exception, *, old: bool) -> CheckpointError:
    message = str(error)
    if "safe_mode" in message or ("Lambda" in message and "arbitrary code" in message):
        return UntrustedCheckpointError(
            f"Loading {files.path} would run Python code from the file (a Lambda layer). Nothing was run.",
            hint="If you trust where it comes from, add `--trust-remote-code`.",
        )
    if "No model config" in message:
        return CheckpointError(
            f"{files.path} holds weights alone, not the model that they belong to.",
            hint="Save the whole model: model.save('model.keras').",
        )
    if old and not keras_2.can_load():
        return CheckpointError(
            f"{files.path} was written by Keras 2, and Keras 3 cannot read it: {first_line(error)}.",
            hint="onnxport env create hf-tensorflow; the environment has Keras 2, and `onnxport convert` uses it.",
        )
    unknown = _CLASS.search(message)
    if unknown is not None:
        return CheckpointError(
            f"{files.path} is made of the class {unknown[1]!r}, which is not known here.",
            hint="In Python, where it is defined: convert(None, keras.saving.load_model(path), output).",
        )
    return CheckpointError(
        f"{files.path} cannot be loaded by Keras: {first_line(error)}.",
        hint="Copy or save it again; --verbose shows what Keras said.",
    )
