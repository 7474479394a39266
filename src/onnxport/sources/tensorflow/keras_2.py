"""Files that Keras 2 wrote: which they are, and loading them with Keras 2 (`tf_keras`).

Upstream: Keras 3 does not read what Keras 2 wrote of LSTM, GRU, DepthwiseConv2D, MultiHeadAttention and operators of
TensorFlow between layers (keras-team/keras-core issues "time_major", "groups"), and of its .keras files hardly any.
The package tf-keras is Keras 2 for today's TensorFlow; the managed environment `hf-tensorflow` has it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import zipfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointError, UntrustedCheckpointError

LIBRARY = "tf_keras"
# Functions of TensorFlow that read or write files or call Python; a TFOpLambda layer may name them.
_UNSAFE = re.compile(r"^(io|raw_ops|saved_model|config|data|train|summary|profiler)\.|py_func|numpy_function|load")
# Where Keras 2 may take classes and functions from: it imports whatever module a file names (CVE-2025-1550), and calls
# functions of its own that download (CVE-2025-8747).
_OWN = re.compile(r"(tf_)?keras(\.|$)|builtins$|__main__$")
_FUNCTIONS = re.compile(
    r"builtins$|__main__$|(tf_)?keras\.(\w+\.)*(activations|initializers|regularizers|constraints|losses|metrics)(\.|$)"
)


def is_of_keras_2(path: Path) -> bool:
    """Whether Keras 2 wrote a .keras or .h5 file; False where that cannot be told."""
    with suppress(Exception):  # what is broken is told by who loads it
        return str(_read(path)[0]).startswith("2.")
    return False


def can_load() -> bool:
    """Whether Keras 2 is installed."""
    return importlib.util.find_spec(LIBRARY) is not None


def load(path: Path, *, trusted: bool) -> Any:
    """The model of a file.

    Raises:
        UntrustedCheckpointError: it holds Python code, and running it was not allowed.
        CheckpointError: it holds weights alone.
    """
    config = _read(path)[1]
    if config is None:
        raise CheckpointError(
            f"{path} holds weights alone, not the model that they belong to.",
            hint="Save the whole model: model.save('model.keras').",
        )
    if not trusted and (found := code_in(config)):
        raise UntrustedCheckpointError(
            f"Loading {path} would run Python code from the file ({found}). Nothing was run.",
            hint="If you trust where it comes from, add `--trust-remote-code`.",
        )
    tf_keras: Any = import_module(LIBRARY)
    return tf_keras.models.load_model(str(path), compile=False, safe_mode=not trusted)


def _read(path: Path) -> tuple[Any, Any]:
    """The version of Keras that wrote a file, and the configuration of its model; None for what is not there."""
    if path.suffix.lower() == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json")).get("keras_version"), json.loads(
                archive.read("config.json")
            )
    import h5py

    with h5py.File(path, "r") as file:
        version, config = file.attrs.get("keras_version"), file.attrs.get("model_config")
    version = version.decode() if isinstance(version, bytes) else version
    return version, None if config is None else json.loads(config)


def code_in(part: Any) -> str | None:
    """What would be run or imported beside Keras' own layers, somewhere in a configuration; None: nothing."""
    if isinstance(part, dict):
        kind, settings, module = part.get("class_name"), part.get("config"), part.get("module")
        function = settings.get("function") if isinstance(settings, dict) else None
        if kind == "Lambda":
            return "a Lambda layer"
        if kind == "TFOpLambda" and _UNSAFE.search(str(function)):
            return f"tf.{function}"
        known = _FUNCTIONS if kind == "function" else _OWN
        if kind is not None and module is not None and not known.match(str(module)):
            return f"{module}.{settings if kind == 'function' else kind}"
        part = list(part.values())
    if isinstance(part, list):
        return next((found for one in part if (found := code_in(one))), None)
    return None
