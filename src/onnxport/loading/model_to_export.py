"""What is converted: a model as one or several sources, the generators of their inputs, and the task."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport.checkpoints.tensorflow_files import TensorflowFiles
from onnxport.dummy_inputs import InputGenerator
from onnxport.dummy_inputs.tensors import TensorInputGenerator, as_sample, rebuilt
from onnxport.errors import CheckpointError, UsageError
from onnxport.loading.options import LoadOptions
from onnxport.loading.partition import parts_of
from onnxport.loading.parts import Part, task_of
from onnxport.loading.resolve import ModelKind, ResolvedModel, resolve_model
from onnxport.loading.weight_origins import WeightOrigins
from onnxport.sources.base import Source
from onnxport.system.library_errors import bad_input
from onnxport.system.time_limit import time_limit
from onnxport.tasks import MODULE, Task


@dataclass
class ModelToExport:
    """Everything that the steps after loading need.

    Attributes:
        pipeline: the pipeline, or None for a plain module.
        parts: the graphs that it becomes, in the order in which they run.
        name: what the user called the model; never an absolute path.
        origin: the checkpoint's folder, or None for a live model.
        replaced: components that the user chose instead of the checkpoint's; and "config", if it was changed.
        allow_unused: parameters that no output depends on were accepted.
        files: the file or folder of a Keras model or SavedModel.
    """

    pipeline: Any
    task: Task
    parts: tuple[Part, ...]
    name: str
    origin: Path | None = None
    notes: tuple[str, ...] = ()
    replaced: frozenset[str] = frozenset()
    allow_unused: bool = False
    files: TensorflowFiles | None = None

    @property
    def weight_origins(self) -> WeightOrigins:
        """Which tensors of the checkpoint the model holds, as loading found out."""
        found: WeightOrigins = getattr(self.pipeline, "weight_origins", WeightOrigins())
        return found

    @property
    def unused_tensors(self) -> dict[str, str]:
        """Tensors of the checkpoint that the model does not hold -> why."""
        return dict(getattr(self.pipeline, "unused_tensors", {}))

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
        # Modules refer to themselves in circles. What was made while collections were paused is young, and the millions
        # of objects of imported libraries, which are not, would take half a second.
        gc.collect(1)


def load_model_to_export(
    resolved: ResolvedModel, task: str = "auto", options: LoadOptions | None = None
) -> ModelToExport:
    """Load what the user gave.

    Raises:
        OnnxPortError: as `loading.load`.
        UsageError: an option that is not for this kind of model; sample inputs that do not fit.
    """
    options = options or LoadOptions()
    if options.signature is not None and (resolved.files is None or resolved.files.kind != "saved_model"):
        raise UsageError(
            f"--signature {options.signature} is for a SavedModel, and {resolved.name} is not a SavedModel.",
            hint="Leave --signature out.",
        )
    if resolved.checkpoint is None and resolved.files is None:
        return _load(resolved, task, options)
    hint = "Copy or download it again; --verbose shows where loading failed."
    files = resolved.checkpoint or resolved.files
    limit = time_limit(f"load {resolved.name}", files.total_bytes if files is not None else 0)
    with limit, bad_input(CheckpointError, f"{resolved.name} cannot be loaded", hint):
        return _load(resolved, task, options)


def _load(resolved: ResolvedModel, task: str, options: LoadOptions) -> ModelToExport:
    if resolved.kind in (ModelKind.TENSORFLOW_FILES, ModelKind.KERAS_MODEL):
        return _from_tensorflow(resolved, task, options)
    if resolved.sample_inputs is not None:
        return from_module(resolved.model, resolved.sample_inputs, options)
    from onnxport.loading.load import load_pipeline

    loaded = load_pipeline(resolved, task, replace(options, lazy=True))
    replaced = {name for name, value in options.components.items() if value is not None}
    if loaded.checkpoint is not None and loaded.checkpoint.adapter is not None:
        replaced |= {"config", "tokenizer"}  # the adapter's own, or its number of labels
    if options.model_kwargs or getattr(loaded.pipeline, "config_changed", False):
        replaced.add("config")  # these arguments of `from_pretrained` may change it
    origin = loaded.checkpoint.path if loaded.checkpoint else None
    return from_pipeline(loaded.pipeline, resolved.framework, resolved.name, origin, loaded.notes, frozenset(replaced))


def from_pipeline_or_model(nlp: Any, framework: str) -> ModelToExport:
    """A pipeline; or of TensorFlow also a Keras model, or the path of a Keras file or a SavedModel.

    Raises:
        OnnxPortError: as `load_model_to_export`.
    """
    if framework == "tf" and not hasattr(nlp, "task"):
        return load_model_to_export(resolve_model(nlp, framework))
    return from_pipeline(nlp, framework)


def _from_tensorflow(resolved: ResolvedModel, task: str, options: LoadOptions) -> ModelToExport:
    """A Keras model or a SavedModel, live or from a path.

    Raises:
        UsageError: a task was given, or an argument that is for a checkpoint.
    """
    if task not in ("auto", MODULE.name):
        raise UsageError(
            f"{resolved.name} has no tokenizer or processor, so it cannot be converted for the task {task}.",
            hint="Leave --task out.",
        )
    if options.model_kwargs:
        raise UsageError(f"A Keras model or SavedModel takes no {', '.join(sorted(options.model_kwargs))}.")
    from onnxport.loading.tensorflow_models import file_parts, keras_parts

    if resolved.files is None:
        parts, notes = keras_parts(resolved.model, resolved.sample_inputs)
    else:
        parts, notes = file_parts(resolved.files, options.signature, trust_remote_code=options.trust_remote_code)
    return ModelToExport(None, MODULE, parts, resolved.name, None, notes, files=resolved.files)


def from_pipeline(
    pipeline: Any,
    framework: str,
    name: str = "",
    origin: Path | None = None,
    notes: tuple[str, ...] = (),
    replaced: frozenset[str] = frozenset(),
) -> ModelToExport:
    """A pipeline as a model to export."""
    parts = parts_of(pipeline, framework)
    return ModelToExport(
        pipeline, task_of(pipeline), parts, name or parts[0].source.architecture, origin, notes, replaced
    )


def from_module(model: Any, sample_inputs: Any, options: LoadOptions) -> ModelToExport:
    """A plain `torch.nn.Module` as a model to export.

    Raises:
        UsageError: the model is not a live module, or the sample does not fit its forward.
    """
    if not (hasattr(model, "forward") and hasattr(model, "state_dict")):
        raise UsageError(
            f"A {type(model).__name__} is neither a torch.nn.Module nor a Keras model, so it cannot be converted.",
            hint="Give a module, a model, or the path of a checkpoint.",
        )
    unused = sorted(options.chosen() - {"allow_unused_weights"})
    if unused:
        raise UsageError(f"A live module takes no {', '.join(unused)}.", hint="Leave it out.")
    model.eval()
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if isinstance(sample_inputs, dict):
        named_inputs = dict(sample_inputs)
    else:
        values = sample_inputs if isinstance(sample_inputs, (tuple, list)) else (sample_inputs,)
        if len(values) > len(names):
            raise UsageError(f"{len(values)} sample inputs for a forward of {len(names)}.")
        named_inputs = dict(zip(names, values, strict=False))
    unknown = [name for name in named_inputs if names and name not in names]
    if unknown:
        raise UsageError(f"The forward has no input {', '.join(unknown)}; it has {', '.join(names)}.")
    sample = as_sample(named_inputs)
    part = Part("model", _source_of(model, named_inputs, tuple(sample)), TensorInputGenerator(sample))
    source = part.source
    return ModelToExport(
        None, MODULE, (part,), source.architecture, allow_unused=options.allow_unused_weights
    )  # fmt: skip


def _source_of(model: Any, inputs: Mapping[str, Any], names: tuple[str, ...]) -> Source:
    """A live module with its inputs: tensors alone, or also containers and constants."""
    from onnxport.sources.pytorch.nested import NestedSource
    from onnxport.sources.pytorch.source import TorchSource

    if set(names) == set(inputs):
        return TorchSource(model)

    def arguments(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: rebuilt(value, name, tensors) for name, value in inputs.items()}

    return NestedSource(model, names, arguments)
