"""What is being converted: a model as a source, the sampler of its inputs, and its task."""

from __future__ import annotations

import gc
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport.dummy_inputs import InputGenerator
from onnxport.dummy_inputs.tensors import TensorInputGenerator, as_sample
from onnxport.errors import UsageError
from onnxport.loading.partition import parts_of
from onnxport.loading.parts import Part, task_of
from onnxport.sources.base import Source
from onnxport.tasks import MODULE, Task


@dataclass
class ModelToExport:
    """Everything that the steps after loading need.

    Attributes:
        pipeline: the pipeline, or None for a plain module.
        parts: the graphs that it becomes, in the order in which they run.
        name: what the user called the model; never an absolute path.
        origin: the checkpoint's folder, or None for a live model.
        replaced: components that the user chose instead of the checkpoint's.
    """

    pipeline: Any
    task: Task
    parts: tuple[Part, ...]
    name: str
    origin: Path | None = None
    notes: tuple[str, ...] = ()
    replaced: frozenset[str] = frozenset()

    @property
    def source(self) -> Source:
        """The model, as the source of the first graph."""
        return self.parts[0].source

    @property
    def generator(self) -> InputGenerator:
        """What makes the user's inputs."""
        return self.parts[0].generator

    @property
    def architecture(self) -> str:
        return self.source.architecture

    @property
    def generation(self) -> dict[str, Any]:
        """What the model's own code says about generating, by the names of generation_config.json."""
        return {name: value for part in self.parts for name, value in getattr(part.source, "settings", {}).items()}

    def release(self) -> None:
        """Let go of the model, so that its memory is free for ONNX Runtime; a live model stays the user's."""
        self.pipeline = None
        for part in self.parts:
            part.source.release()
        gc.collect()  # modules refer to themselves in circles


def load_model_to_export(
    framework: str | None, model: Any, tokenizer: Any, task: str, sample_inputs: Any, settings: dict[str, Any]
) -> ModelToExport:
    """Load whatever the user gave.

    Raises:
        OnnxPortError: as `loading.load`; UsageError: sample inputs without a live module, or the reverse.
    """
    tensorflow = _from_tensorflow(framework, model, sample_inputs, task, settings)
    if tensorflow is not None:
        return tensorflow
    if framework == "tf" and not isinstance(model, (str, Path)) and not hasattr(model, "config"):
        raise UsageError(f"A {type(model).__name__} is no Keras model.", hint="Leave --framework out.")
    if sample_inputs is not None:
        return from_module(model, sample_inputs, settings)
    from onnxport.loading.load import load

    loaded = load(task, framework, model, tokenizer, lazy=True, **settings)
    replaced = frozenset({"tokenizer"} if tokenizer is not None else ())
    name = loaded.checkpoint.source if loaded.checkpoint else type(model).__name__
    origin = loaded.checkpoint.path if loaded.checkpoint else None
    return from_pipeline(loaded.pipeline, loaded.framework, name, origin, loaded.notes, replaced)


def _from_tensorflow(
    framework: str | None, model: Any, sample_inputs: Any, task: str, settings: dict[str, Any]
) -> ModelToExport | None:
    """A Keras model or a SavedModel, live or from a path; None for anything else.

    Raises:
        UsageError: it was said to be of another framework, or for a task.
    """
    from onnxport.checkpoints.tensorflow_files import find_tensorflow_files
    from onnxport.sources.tensorflow.keras import is_keras_model

    trusted = bool(settings.get("trust_remote_code"))
    live = is_keras_model(model) and not hasattr(model, "save_pretrained")
    files = find_tensorflow_files(model, trust_remote_code=trusted) if isinstance(model, (str, Path)) else None
    if not live and files is None:
        return None
    name = type(model).__name__ if files is None else files.path.resolve().name
    if framework == "pt":
        raise UsageError(f"{name} is a TensorFlow model.", hint="Use `--framework tf`.")
    if task not in ("auto", MODULE.name):
        raise UsageError(
            f"{name} is a model without a tokenizer or processor: no task can be chosen for it.",
            hint="Leave --task out.",
        )
    from onnxport.loading.tensorflow_models import file_parts, keras_parts

    if files is None:
        (parts, notes), architecture = keras_parts(model, sample_inputs), type(model).__name__
    else:
        if sample_inputs is not None:
            raise UsageError(f"sample_inputs are for a live model, not for {files.path}.")
        (parts, notes), architecture = file_parts(files, settings.get("signature"), trust_remote_code=trusted)
    return ModelToExport(None, MODULE, parts, name if files is not None else architecture, None, notes)


def from_pipeline(
    pipeline: Any,
    framework: str,
    name: str = "",
    origin: Path | None = None,
    notes: tuple[str, ...] = (),
    replaced: frozenset[str] = frozenset(),
) -> ModelToExport:
    """A pipeline as a subject."""
    parts = parts_of(pipeline, framework)
    return ModelToExport(
        pipeline, task_of(pipeline), parts, name or parts[0].source.architecture, origin, notes, replaced
    )


def from_module(model: Any, sample_inputs: Any, settings: dict[str, Any]) -> ModelToExport:
    """A plain `torch.nn.Module` as a subject.

    Raises:
        UsageError: the model is not a live module, or the sample does not fit its forward.
    """
    if not (hasattr(model, "forward") and hasattr(model, "state_dict")):
        raise UsageError(
            f"sample_inputs are for a live torch.nn.Module, not for {model!r}.",
            hint="Leave sample_inputs out: onnxport makes the inputs of a checkpoint itself.",
        )
    if settings:
        raise UsageError(f"A live module takes no {', '.join(sorted(settings))}.")
    model.eval()
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if isinstance(sample_inputs, dict):
        given = dict(sample_inputs)
    else:
        values = sample_inputs if isinstance(sample_inputs, (tuple, list)) else (sample_inputs,)
        if len(values) > len(names):
            raise UsageError(f"{len(values)} sample inputs for a forward of {len(names)}.")
        given = dict(zip(names, values, strict=False))
    unknown = [name for name in given if names and name not in names]
    if unknown:
        raise UsageError(f"The forward has no input {', '.join(unknown)}; it has {', '.join(names)}.")
    from onnxport.sources.pytorch.source import TorchSource

    source = TorchSource(model)
    part = Part("model", source, TensorInputGenerator(as_sample(given)))
    return ModelToExport(None, MODULE, (part,), source.architecture)
