"""Pipelines around transformers' TF classes. They exist only where those do (`require_transformers_tensorflow`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError, UsageError
from onnxport.loading.assembly import Assembled
from onnxport.loading.components import Components, load_components
from onnxport.loading.options import LoadOptions
from onnxport.loading.tensorflow_weights import LoadedTensorflow, load_tensorflow_model, redraw
from onnxport.loading.weights import describe_missing, readable_errors
from onnxport.system.requirements import require_transformers_tensorflow
from onnxport.tasks import Task

# What a task's samples are made with: True must be there, None may be, all others are never loaded. A processor is
# only those together.
_WANTED: dict[str, dict[str, bool | None]] = {
    "image": {"image_processor": True, "tokenizer": None},
    "image-in-text": {"image_processor": True, "tokenizer": True},
    "image+texts": {"image_processor": True, "tokenizer": True},
    "audio": {"feature_extractor": True, "tokenizer": None},
}
_TEXT: dict[str, bool | None] = {"tokenizer": True}
_COMPONENTS = ("tokenizer", "image_processor", "feature_extractor", "processor")


def assemble_tensorflow(
    task: Task, checkpoint: Checkpoint, given: Mapping[str, Any], options: LoadOptions
) -> Assembled:
    """Load a checkpoint into the TF pipeline of a task.

    Raises:
        MissingDependencyError: there are no TF classes here.
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
    components = _components(task, checkpoint.model_folder, given, loaded.model, options)
    pipeline = _pipeline(task, loaded.model, components)
    dropped, notes = _judge_missing(pipeline, task, checkpoint, loaded, options)
    return _finish(pipeline, task, loaded, dropped, (*checkpoint.notes, *loaded.notes, *components.notes, *notes))


def wrap_tensorflow(task: Task, model: Any, given: Mapping[str, Any], options: LoadOptions) -> Assembled:
    """A pipeline around a TF model that is in memory; its components come from where it was loaded."""
    prepare_tensorflow()
    origin = getattr(model.config, "_name_or_path", "") or getattr(model, "name_or_path", "")
    folder = Path(origin) if origin and Path(origin).is_dir() else None
    components = _components(task, folder, given, model, options)
    return _finish(_pipeline(task, model, components), task, LoadedTensorflow(model), (), components.notes)


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
        for name in _COMPONENTS:
            setattr(self, name, getattr(components, name))

    def __call__(self, inputs: Any, **settings: Any) -> dict[str, Any]:
        if not isinstance(inputs, Mapping):
            raise UsageError(
                f"transformers has no TensorFlow pipeline for {self.task} that takes a {type(inputs).__name__} here.",
                hint="Give a dict of tensors.",
            )
        return dict(self.model(**inputs, **settings).items())


def _components(
    task: Task, folder: Path | None, given: Mapping[str, Any], model: Any, options: LoadOptions
) -> Components:
    wanted = _WANTED.get(task.kind, _TEXT)
    if getattr(model, "main_input_name", "input_ids") != "input_ids" and task.auto == ("AutoModel",):
        wanted = dict.fromkeys(_COMPONENTS)  # a base model of another modality
    flags: Any = SimpleNamespace(**{f"_load_{name}": wanted.get(name, False) for name in _COMPONENTS})
    size = getattr(model.config.get_text_config(), "vocab_size", None)
    components = load_components(
        folder, flags, dict(given), trust_remote_code=options.trust_remote_code, vocabulary_size=size
    )
    tokenizer = components.tokenizer
    if tokenizer is None or getattr(tokenizer, "is_fast", True):
        return components
    note = (
        f"{type(tokenizer).__name__} has no fast form: the folder has no tokenizer.json, and reading and writing texts "
        "with it needs transformers."
    )
    return Components(**components.arguments(), notes=(*components.notes, note), complete=components.complete)


def _pipeline(task: Task, model: Any, components: Components) -> Any:
    """transformers' own where it has one for TensorFlow, and everything that it needs is there."""
    from transformers.pipelines import SUPPORTED_TASKS, TASK_ALIASES

    entry = SUPPORTED_TASKS.get(TASK_ALIASES.get(task.name, task.name))
    if entry is None or not entry["tf"] or not components.complete:
        return TensorflowPipeline(task.name, model, components)
    with readable_errors(getattr(model.config, "_name_or_path", "") or type(model).__name__):
        return entry["impl"](model=model, framework="tf", task=task.name, **components.arguments())


def _finish(
    pipeline: Any, task: Task, loaded: LoadedTensorflow, dropped: tuple[str, ...], notes: tuple[str, ...]
) -> Assembled:
    pipeline.task = task.name
    pipeline.missing_weights, pipeline.dropped_outputs, pipeline.notes = loaded.missing, dropped, notes
    return Assembled(pipeline, loaded.missing, dropped, notes)


def _judge_missing(
    pipeline: Any, task: Task, checkpoint: Checkpoint, loaded: LoadedTensorflow, options: LoadOptions
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(outputs to drop, notes) for weights that the checkpoint lacks, as `assembly` judges those of PyTorch.

    Raises:
        CheckpointError: an output that the task needs depends on them, and it was not allowed.
    """
    if not loaded.missing:
        return (), ()
    names = describe_missing(loaded.missing, loaded.shapes)
    if options.allow_missing_weights:
        return (), (f"Random, because the checkpoint lacks them (it was allowed): {names}.",)
    if not task.generates and loaded.variables:
        pipeline.task, pipeline.dropped_outputs = task.name, ()
        depends = _outputs_that_depend(pipeline, loaded)
        random = tuple(name for name in task.outputs if depends.get(name))
        kept = [name for name in task.outputs if name in depends]
        needed = kept if task.decision is not None else kept[:1]
        if kept and not set(random) & set(needed):
            if not random:
                return (), (f"Not in the checkpoint, and no output depends on them: {names}.",)
            outputs = ", ".join(random)
            return random, (f"{outputs} was left out: the checkpoint lacks its weights ({names}).",)
    from onnxport.loading.task_detection import identity_of, own_tasks

    own = [name for name in own_tasks(identity_of(checkpoint, framework="tf")) if name != task.name]
    made_for = f"The checkpoint is for {' or '.join(own[:3])}: choose that with `--task`. Or " if own else "To "
    raise CheckpointError(
        f"The weights of {checkpoint.source} lack {len(loaded.missing)} parameters of "
        f"{type(loaded.model).__name__}: {names} would be random.",
        hint=f"{made_for}convert it with random weights all the same: `--allow-missing-weights`.",
    )


def _outputs_that_depend(pipeline: Any, loaded: LoadedTensorflow) -> dict[str, bool]:
    """For every output: whether other numbers for the missing weights change it; {} where the model does not run."""
    import numpy as np

    from onnxport.dummy_inputs.base import base_sizes
    from onnxport.loading.partition_tensorflow import tensorflow_parts

    before = [variable.numpy() for variable in loaded.variables]
    try:
        (part,) = tensorflow_parts(pipeline)
        sample = part.generator.make(base_sizes(part.generator))
        results = []
        for seed in (1, 2, 3):
            redraw(loaded.variables, seed)
            results.append(part.source.run(sample))
    except Exception:  # it does not run: nothing can be said
        return {}
    finally:
        for variable, numbers in zip(loaded.variables, before, strict=True):
            variable.assign(numbers)
    first, *others = results
    return {name: any(not np.array_equal(value, other[name]) for other in others) for name, value in first.items()}
