"""What the user gave: its framework, the process that can convert it, and what its files hold.

Answered once, before anything is loaded and before a framework is imported. `convert`, `verify`, `infer_shapes` and
`pipeline` share the answer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint, inspect_checkpoint, judge_quantized
from onnxport.checkpoints.tensorflow_files import TensorflowFiles, find_tensorflow_files
from onnxport.environments import require
from onnxport.errors import CheckpointError, MissingDependencyError, UsageError
from onnxport.loading.options import LoadOptions
from onnxport.sources.tensorflow.keras import is_keras_model
from onnxport.sources.tensorflow.keras_2 import can_load, is_of_keras_2
from onnxport.system.library_errors import bad_input

FRAMEWORKS = ("pt", "tf")
# transformers dropped its TensorFlow classes in version 5; this managed environment has the last that has them.
HF_TENSORFLOW = "hf-tensorflow"
_WITHOUT_TENSORFLOW = 5
_HINT = "Copy or download it again; --verbose shows where reading failed."


class ModelKind(Enum):
    """What a model is, and with that how it is loaded."""

    CHECKPOINT = auto()  # a folder, a GGUF file or a hub name: config.json and weights for a class of transformers
    TENSORFLOW_FILES = auto()  # a Keras file, a KerasHub preset or a SavedModel
    TRANSFORMERS_MODEL = auto()  # a live model of transformers, of either framework
    KERAS_MODEL = auto()  # any other live Keras model
    MODULE = auto()  # a live torch.nn.Module, which needs sample inputs


@dataclass(frozen=True)
class ResolvedModel:
    """A model that was looked at, and not loaded yet.

    Attributes:
        model: what the user gave: a path, a name on the hub, or a live object.
        kind: how it is loaded.
        framework: "pt" or "tf".
        environment: name of the managed environment that must load it; None: this process can.
        checkpoint: what the files hold, of a CHECKPOINT.
        files: what the files hold, of TENSORFLOW_FILES.
        sample_inputs: inputs that the user gave along with a live model.
    """

    model: Any
    kind: ModelKind
    framework: str
    environment: str | None = None
    checkpoint: Checkpoint | None = None
    files: TensorflowFiles | None = None
    sample_inputs: Any = None

    @property
    def name(self) -> str:
        """How messages and the manifest call it; never an absolute path."""
        if self.checkpoint is not None:
            return self.checkpoint.source
        return self.files.path.resolve().name if self.files is not None else type(self.model).__name__


def resolve_model(
    model: Any, framework: str | None = None, options: LoadOptions | None = None, sample_inputs: Any = None
) -> ResolvedModel:
    """Look at what the user gave.

    Args:
        model: a path, a name on the hub (which is downloaded), or a live object.
        framework: "pt", "tf", or None: found from the model.
        options: what may be read (`allow_pickle`, `trust_remote_code`), and which revision.
        sample_inputs: of a live model.

    Raises:
        UsageError: an unknown framework, or not that of the model; sample inputs with a path.
        CheckpointError: a checkpoint or file that is missing, broken, or of the other framework.
        UntrustedCheckpointError: loading it would run code without permission.
    """
    check_framework(framework)
    options = options or LoadOptions()
    if not isinstance(model, (str, Path)):
        return _live_model(model, framework, sample_inputs)
    if sample_inputs is not None:
        raise UsageError(
            f"sample_inputs are for a live torch.nn.Module or Keras model, and {str(model)!r} is a path or a name.",
            hint="Leave sample_inputs out: onnxport makes the inputs of a checkpoint itself.",
        )
    with bad_input(CheckpointError, f"{model} cannot be read", _HINT):
        files = find_tensorflow_files(model, trust_remote_code=options.trust_remote_code)
        if files is None:
            return _checkpoint(model, framework, options)
        if framework == "pt":
            raise UsageError(
                f"{model} is a Keras file or a SavedModel: a TensorFlow model.",
                hint="Use framework tf, or leave it out.",
            )
        environment = _environment_of_keras_2(files.path)
        return ResolvedModel(model, ModelKind.TENSORFLOW_FILES, "tf", environment, files=files)


def check_framework(framework: str | None) -> None:
    """Make sure that a framework is one that onnxport knows.

    Raises:
        UsageError: it is not.
    """
    if framework not in (None, *FRAMEWORKS):
        raise UsageError(f"Unknown framework {framework!r}.", hint="Use pt, tf, or leave it out.")


def has_tensorflow_classes() -> bool:
    """Whether transformers' TensorFlow models can be loaded in this process."""
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("tensorflow") is None:
        return False
    return int(importlib.metadata.version("transformers").split(".")[0]) < _WITHOUT_TENSORFLOW


def _live_model(model: Any, framework: str | None, sample_inputs: Any) -> ResolvedModel:
    is_keras = is_keras_model(model)
    if framework is not None and is_keras != (framework == "tf"):
        raise UsageError(
            f"The given {type(model).__name__} is {'a TensorFlow' if is_keras else 'not a TensorFlow'} model.",
            hint=f"Use framework={'tf' if is_keras else 'pt'!r}, or leave it out.",
        )
    if is_keras and not hasattr(model, "save_pretrained"):
        return ResolvedModel(model, ModelKind.KERAS_MODEL, "tf", sample_inputs=sample_inputs)
    of_transformers = hasattr(model, "config") and callable(model)
    if is_keras and sample_inputs is not None:
        raise UsageError(
            f"The inputs of a {type(model).__name__} are made by its tokenizer or processor, not by sample_inputs.",
            hint="Leave sample_inputs out.",
        )
    kind = ModelKind.TRANSFORMERS_MODEL if of_transformers and sample_inputs is None else ModelKind.MODULE
    return ResolvedModel(model, kind, "tf" if is_keras else "pt", sample_inputs=sample_inputs)


def _checkpoint(model: str | Path, framework: str | None, options: LoadOptions) -> ResolvedModel:
    checkpoint = inspect_checkpoint(
        model,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision,
        token=options.token,
        framework=framework,
        base_model=None if options.base_model is None else str(options.base_model),
    )
    checkpoint = judge_quantized(checkpoint, dequantize=options.dequantize)
    if framework == "pt" and checkpoint.framework == "tf":
        raise CheckpointError(
            f"{checkpoint.source} has only TensorFlow weights ({checkpoint.weight_files[0].name}).",
            hint="Give a checkpoint with PyTorch weights (model.safetensors), or `--framework tf`.",
        )
    if framework == "tf" or checkpoint.framework == "tf":
        environment = None if has_tensorflow_classes() else HF_TENSORFLOW
        return ResolvedModel(model, ModelKind.CHECKPOINT, "tf", environment, checkpoint)
    return ResolvedModel(model, ModelKind.CHECKPOINT, "pt", checkpoint=checkpoint)


def _environment_of_keras_2(path: Path) -> str | None:
    """The environment with Keras 2, for a file that Keras 2 wrote; None where this process must try with Keras 3."""
    if not path.is_file() or not is_of_keras_2(path) or can_load():
        return None
    try:
        require(HF_TENSORFLOW)
    except MissingDependencyError:
        return None
    return HF_TENSORFLOW
