"""Pipelines around transformers' TF classes. They exist only where those do (`require_transformers_tensorflow`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError, UsageError
from onnxport.loading.assembly import origin_folder
from onnxport.loading.components import Components, load_components
from onnxport.loading.missing_weights import judge_missing_weights
from onnxport.loading.options import COMPONENTS, LoadOptions
from onnxport.loading.parts import record_loading
from onnxport.loading.tensorflow_weights import load_tensorflow_model, missing_variables, redraw
from onnxport.loading.weights import LoadedModel, readable_errors
from onnxport.system.requirements import require_transformers_tensorflow
from onnxport.tasks import Task

# Components that make a task's inputs: True must be there, None may be, all others are never loaded.
_WANTED: dict[str, dict[str, bool | None]] = {
    "image": {"image_processor": True, "tokenizer": None},
    "image-in-text": {"image_processor": True, "tokenizer": True},
    "image+texts": {"image_processor": True, "tokenizer": True},
    "audio": {"feature_extractor": True, "tokenizer": None},
}
_TEXT: dict[str, bool | None] = {"tokenizer": True}


def assemble_tensorflow(task: Task, checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """Load a checkpoint into the TF pipeline of a task; the pipeline says what happened (`record_loading`).

    Raises:
        MissingDependencyError: this process has no TF classes.
        CheckpointError: something cannot be read; or weights that matter are not in the checkpoint.
        TaskError: transformers has no TF class of the family for the task.
    """
    prepare_tensorflow()
    if checkpoint.is_sentence_transformers and task.name == "feature-extraction":
        raise CheckpointError(
            f"{checkpoint.source} is a sentence encoder of several modules, for which there is no TF class.",
            hint="Use `--framework pt` with PyTorch weights.",
        )
    loaded = load_tensorflow_model(checkpoint, task.auto, options)
    components = _components(task, checkpoint.model_folder, loaded.model, options)
    # The probe for missing weights needs a pipeline that knows its task.
    pipeline = record_loading(_pipeline(task, loaded.model, components, options), task.name)
    dropped, notes = judge_missing_weights(
        loaded, checkpoint, task, lambda: _outputs_that_depend(pipeline, task, loaded),
        allowed=options.allow_missing_weights,
    )  # fmt: skip
    notes = (*checkpoint.notes, *loaded.notes, *components.notes, *notes)
    return record_loading(pipeline, task.name, loaded.missing, dropped, notes)


def assemble_live_tensorflow(task: Task, model: Any, options: LoadOptions) -> Any:
    """A pipeline around a TF model that is in memory. Its components come from where it was loaded."""
    prepare_tensorflow()
    components = _components(task, origin_folder(model), model, options)
    return record_loading(_pipeline(task, model, components, options), task.name, notes=components.notes)


def prepare_tensorflow() -> None:
    """Import TensorFlow without its greetings, before transformers does it with them.

    Raises:
        MissingDependencyError: there are no TF classes here.
    """
    require_transformers_tensorflow()
    from onnxport.sources.tensorflow.source import tensorflow

    tensorflow()


class TensorflowPipeline:
    """Runs a TF model on tensors that the caller made: `nlp({"input_ids": tensor})` gives its outputs by name.

    For tasks that transformers has no TF pipeline for, and checkpoints without a tokenizer or processor.
    """

    def __init__(self, task: str, model: Any, components: Components) -> None:
        self.task, self.model, self.framework = task, model, "tf"
        for name in COMPONENTS:
            setattr(self, name, getattr(components, name))

    def __call__(self, inputs: Any, **settings: Any) -> dict[str, Any]:
        if not isinstance(inputs, Mapping):
            raise UsageError(
                f"transformers has no TensorFlow pipeline for {self.task} that takes a {type(inputs).__name__} here.",
                hint="Give a dict of tensors.",
            )
        return dict(self.model(**inputs, **settings).items())


def _components(task: Task, folder: Path | None, model: Any, options: LoadOptions) -> Components:
    wanted = _WANTED.get(task.kind, _TEXT)
    if getattr(model, "main_input_name", "input_ids") != "input_ids" and task.auto == ("AutoModel",):
        wanted = dict.fromkeys(COMPONENTS)  # a base model of another modality
    flags: Any = SimpleNamespace(**{f"_load_{name}": wanted.get(name, False) for name in COMPONENTS})
    size = getattr(model.config.get_text_config(), "vocab_size", None)
    components = load_components(
        folder, flags, dict(options.components), trust_remote_code=options.trust_remote_code, vocabulary_size=size
    )
    tokenizer = components.tokenizer
    if tokenizer is None or getattr(tokenizer, "is_fast", True):
        return components
    note = (
        f"{type(tokenizer).__name__} has no fast form: the folder has no tokenizer.json, and reading and writing texts "
        "with it needs transformers."
    )
    return Components(**components.arguments(), notes=(*components.notes, note), complete=components.complete)


def _pipeline(task: Task, model: Any, components: Components, options: LoadOptions) -> Any:
    """Transformers' own where it has one for TensorFlow, and everything that it needs is there."""
    from transformers.pipelines import SUPPORTED_TASKS, TASK_ALIASES

    entry = SUPPORTED_TASKS.get(TASK_ALIASES.get(task.name, task.name))
    pipeline_class = options.pipeline_class or (entry["impl"] if entry is not None and entry["tf"] else None)
    if pipeline_class is None or not components.complete:
        return TensorflowPipeline(task.name, model, components)
    with readable_errors(getattr(model.config, "_name_or_path", "") or type(model).__name__):
        return pipeline_class(
            model=model, framework="tf", task=task.name, **components.arguments(), **options.pipeline_arguments
        )


def _outputs_that_depend(pipeline: Any, task: Task, loaded: LoadedModel) -> dict[str, bool] | None:
    """For every output: whether other numbers for the missing weights change it. None where that cannot be tried."""
    variables = missing_variables(loaded.model, loaded.missing)
    if task.generates or not variables:
        return None
    import numpy as np

    from onnxport.dummy_inputs.base import base_sizes
    from onnxport.loading.partition_tensorflow import tensorflow_parts

    before = [variable.numpy() for variable in variables]
    try:
        (part,) = tensorflow_parts(pipeline)
        sample = part.generator.make(base_sizes(part.generator))
        results = []
        for seed in (1, 2, 3):
            redraw(variables, seed)
            results.append(part.source.run(sample))
    except Exception:  # it does not run: nothing can be said
        return None
    finally:
        for variable, numbers in zip(variables, before, strict=True):
            variable.assign(numbers)
    first, *others = results
    return {name: any(not np.array_equal(value, other[name]) for other in others) for name, value in first.items()}
