"""Which framework a model is of, and whether it can be converted in this process; nothing is imported for that."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint, inspect_checkpoint
from onnxport.checkpoints.tensorflow_files import kind_of
from onnxport.checkpoints.weight_files import only_tensorflow
from onnxport.environments import require
from onnxport.errors import CheckpointError, MissingDependencyError, UsageError
from onnxport.sources.tensorflow.keras import is_keras_model
from onnxport.sources.tensorflow.keras_2 import can_load, is_of_keras_2

FRAMEWORKS = ("pt", "tf")
# transformers dropped its TensorFlow classes in version 5; this managed environment has the last that has them.
HF_TENSORFLOW = "hf-tensorflow"
_WITHOUT_TENSORFLOW = 5


@dataclass(frozen=True)
class ConversionProcess:
    """Where a model is converted.

    Attributes:
        framework: "pt" or "tf".
        environment: name of the managed environment that it needs; None: this process.
        checkpoint: what was found, where a checkpoint had to be looked at for that.
    """

    framework: str
    environment: str | None = None
    checkpoint: Checkpoint | None = None


def find_process(framework: str | None, model: Any, settings: dict[str, Any]) -> ConversionProcess:
    """Look at what the user gave.

    Args:
        framework: "pt", "tf", or None: found from the model.
        model: a path, a name on the hub, or a live object.
        settings: arguments of `convert` that say what may be read: `allow_pickle`, `revision`, ...

    Raises:
        UsageError: an unknown framework, or not that of the model.
        CheckpointError: a checkpoint that is missing or broken.
    """
    if framework not in (None, *FRAMEWORKS):
        raise UsageError(f"Unknown framework {framework!r}.", hint="Use pt, tf, or leave it out.")
    if not isinstance(model, (str, Path)):
        return ConversionProcess(framework or ("tf" if is_keras_model(model) else "pt"))
    if kind_of(model) is not None:
        if framework == "pt":
            raise UsageError(
                f"{model} is a Keras file or a SavedModel, which are of TensorFlow.",
                hint="Leave the framework out.",
            )
        return ConversionProcess("tf", _environment_of_keras_2(Path(model).expanduser()))
    if framework == "pt":
        return ConversionProcess("pt")
    known = ("allow_pickle", "trust_remote_code", "revision", "token")
    allowed = {name: settings[name] for name in known if settings.get(name)}
    checkpoint = inspect_checkpoint(model, framework=framework, **allowed)
    if framework == "tf" or checkpoint.framework == "tf":
        return ConversionProcess("tf", None if has_tensorflow_classes() else HF_TENSORFLOW, checkpoint)
    return ConversionProcess("pt", checkpoint=checkpoint)


def _environment_of_keras_2(path: Path) -> str | None:
    """Where a file that Keras 2 wrote is read as it was meant, if that is there; Keras 3 reads some of them."""
    if not path.is_file() or not is_of_keras_2(path) or can_load():
        return None
    try:
        require(HF_TENSORFLOW)
    except MissingDependencyError:
        return None
    return HF_TENSORFLOW


def has_tensorflow_classes() -> bool:
    """Whether transformers' TensorFlow models can be loaded in this process."""
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("tensorflow") is None:
        return False
    return int(importlib.metadata.version("transformers").split(".")[0]) < _WITHOUT_TENSORFLOW


def is_tensorflow(framework: str | None, model: Any) -> bool:
    """Whether TF classes are to be used: said so, a live TF model, or a folder with weights for nothing else."""
    from onnxport.sources.tensorflow.keras import is_keras_model

    if isinstance(model, (str, Path)):
        folder = Path(model).expanduser()
        if (folder / "onnxport.json").is_file():  # of whatever framework it was
            return False
        return only_tensorflow(folder) if framework is None else framework == "tf"
    if framework is not None:
        return framework == "tf"
    return is_keras_model(model)


def is_tensorflow_checkpoint(framework: str | None, checkpoint: Checkpoint | None, model: Any) -> bool:
    """Whether TF classes are to be used.

    Raises:
        CheckpointError, UsageError: the model is of the other framework than the one that was named.
    """
    from onnxport.sources.tensorflow.keras import is_keras_model

    if checkpoint is None:
        is_keras = is_keras_model(model)
        if framework is not None and is_keras != (framework == "tf"):
            raise UsageError(
                f"The given {type(model).__name__} is {'a TensorFlow' if is_keras else 'no TensorFlow'} model.",
                hint=f"Use framework={'tf' if is_keras else 'pt'!r}, or leave it out.",
            )
        return is_keras
    if framework == "pt" and checkpoint.framework == "tf":
        raise CheckpointError(
            f"{checkpoint.source} has only TensorFlow weights ({checkpoint.weight_files[0].name}).",
            hint="Give a checkpoint with PyTorch weights (model.safetensors), or `--framework tf`.",
        )
    return framework == "tf" or checkpoint.framework == "tf"
