"""From a model name, a folder or a live model to a pipeline that can be converted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint, inspect_checkpoint
from onnxport.errors import UsageError
from onnxport.loading.framework import is_tensorflow_checkpoint
from onnxport.tasks import Task, find_task

_FRAMEWORKS = (None, "pt", "tf")


@dataclass(frozen=True)
class Loaded:
    """A pipeline with what the steps after it must know.

    Attributes:
        pipeline: the pipeline; `pipeline.model` in eval mode, `pipeline.tokenizer` and the like None where the
            checkpoint has none. Carries `task`, `missing_weights`, `dropped_outputs`, `notes` too.
        task: the row of the task table.
        checkpoint: what the folder holds, or None for a live model.
        missing_weights: parameters that the checkpoint lacks; random, and either allowed or
            without influence on the outputs that are kept.
        dropped_outputs: outputs that depend on those and must not be exported.
        notes: what a user should know.
        framework: whose model it is, "pt" or "tf".
    """

    pipeline: Any
    task: Task
    checkpoint: Checkpoint | None
    missing_weights: tuple[str, ...] = ()
    dropped_outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    framework: str = "pt"


def load(
    pipeline_name: str,
    framework: str | None,
    model: Any,
    tokenizer: Any = None,
    *,
    allow_missing_weights: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: Any = None,
    device: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    processor: Any = None,
    lazy: bool = False,
    **model_kwargs: Any,
) -> Loaded:
    """Load a model for a task, and check that all of it is there.

    Args:
        pipeline_name: a task of the table, or "auto": read from the checkpoint's architecture.
        framework: "pt", "tf", or None: found from the checkpoint.
        model: a folder, a GGUF file, a model of the hub, a checkpoint that was looked at, or a live transformers model.
        tokenizer: a live tokenizer, or where to load one from; the model's by default.
        allow_missing_weights: accept parameters that the checkpoint lacks.
        allow_pickle: accept pickled weights (read with torch's restricted unpickler).
        trust_remote_code: accept Python code from the checkpoint.
        revision, token: for a model of the hub.
        dtype: None is float32; "auto" as stored; or a floating point type. A TF model is float32.
        device: where to put the model; None is the CPU.
        feature_extractor, image_processor, processor: like `tokenizer`.
        lazy: leave the weights in their files, for a conversion.
        model_kwargs: further arguments of `from_pretrained` (attn_implementation, config, ...).

    Raises:
        UsageError: an unknown framework or argument.
        TaskError: an unknown task, or one that the architecture has no head for.
        CheckpointError: missing, broken or incomplete; UntrustedCheckpointError where code would be run.
        MissingDependencyError: torch, transformers or a library that the model needs is not installed; or there are no
            TF classes here.
    """
    if framework not in _FRAMEWORKS:
        raise UsageError(f"Unknown framework {framework!r}.", hint="Use pt, tf, or leave it out.")
    # Whatever can be wrong with what was typed is told before the frameworks are imported.
    task = None if pipeline_name == "auto" else find_task(pipeline_name)
    checkpoint = model if isinstance(model, Checkpoint) else None
    if isinstance(model, (str, Path)):
        checkpoint = inspect_checkpoint(
            model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, revision=revision, token=token,
            framework=framework,
        )  # fmt: skip
    of_tensorflow = is_tensorflow_checkpoint(framework, checkpoint, model)

    if of_tensorflow:
        from onnxport.loading.tensorflow import prepare_tensorflow

        prepare_tensorflow()
    else:
        from onnxport.system.requirements import require_pytorch

        require_pytorch()
    from onnxport.loading.assembly import assemble, from_live_model
    from onnxport.loading.gguf import identified
    from onnxport.loading.options import LoadOptions
    from onnxport.loading.registry import find_spec
    from onnxport.loading.task_detection import check_task, choose_task, identity_of, identity_of_model

    stands_on = "tf" if of_tensorflow else "pt"
    if checkpoint is not None:
        checkpoint = identified(checkpoint)
        identity = identity_of(checkpoint, trust_remote_code=trust_remote_code, framework=stands_on)
    elif hasattr(model, "config"):
        identity = identity_of_model(model, stands_on)
    else:
        raise UsageError(
            f"A {type(model).__name__} is not a transformers model, so there is no pipeline for it.",
            hint="`convert(model, ..., sample_inputs=...)` takes any torch.nn.Module.",
        )
    notes: tuple[str, ...] = ()
    if task is None:
        choice = choose_task(identity)
        task, notes = choice.task, choice.notes
    elif checkpoint is not None:
        check_task(task, identity)
    options = LoadOptions(allow_missing_weights, allow_pickle, trust_remote_code, dtype, device, model_kwargs, lazy)
    given = {
        "tokenizer": tokenizer,
        "feature_extractor": feature_extractor,
        "image_processor": image_processor,
        "processor": processor,
    }
    if of_tensorflow:
        from onnxport.loading.tensorflow import assemble_tensorflow, wrap_tensorflow

        if checkpoint is not None:
            built = assemble_tensorflow(task, checkpoint, given, options)
        else:
            built = wrap_tensorflow(task, model, given, options)
    elif checkpoint is not None:
        built = assemble(find_spec(task.name), checkpoint, given, options)
    else:
        built = from_live_model(find_spec(task.name), model, given, options)
    built.pipeline.notes = (*notes, *built.notes)
    return Loaded(
        built.pipeline, task, checkpoint, built.missing_weights, built.dropped_outputs, built.pipeline.notes, stands_on
    )  # fmt: skip


def load_graph_from_args(
    pipeline_name: str, framework: str | None, model: Any, tokenizer: Any = None, **models_kwargs: Any
) -> Any:
    """The pipeline of a model name or folder.

    Args:
        pipeline_name: a task ("feature-extraction", "ner", ...), or "auto".
        framework: "pt", "tf", or None: found from the checkpoint.
        model: a folder, a model of the hub, or a live transformers model.
        tokenizer: the model's by default.
        models_kwargs: the keyword arguments of `load`.

    Raises:
        OnnxPortError: as `load`.
    """
    return load(pipeline_name, framework, model, tokenizer, **models_kwargs).pipeline
