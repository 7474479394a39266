"""Which task a checkpoint is for, read from its architecture through transformers' tables.

The tables map a model type ("bert") to class names; nothing of the model is loaded here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.dummy_inputs.choose import main_input_of
from onnxport.errors import CheckpointError, TaskError
from onnxport.loading.model_classes import class_named, class_names, tower
from onnxport.loading.sentence_settings import is_sentence_encoder
from onnxport.loading.transformers_version import is_newer, unknown_type_hint, upgrade_hint, written_by
from onnxport.tasks import IMAGE_AND_TEXTS, TASKS, Task, find_task

_IMAGE_TEXT = "AutoModelForImageTextToText"
# task_type in the adapter_config.json of peft -> the row of the table.
TASK_TYPES = {
    "SEQ_CLS": "text-classification", "TOKEN_CLS": "token-classification", "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation", "SEQ_2_SEQ_LM": "text2text-generation", "FEATURE_EXTRACTION": "feature-extraction",
}  # fmt: skip
_GENERATIVE = ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM", "AutoModelForSpeechSeq2Seq", _IMAGE_TEXT)


@dataclass(frozen=True)
class Identity:
    """What the detection of a task looks at.

    Attributes:
        source: how messages call it.
        model_type: transformers' name of the family ("bert"), or None.
        architectures: class names, most often one.
        is_sentence_encoder: sentence-transformers' modules make embeddings of its outputs.
        remote: auto classes that the checkpoint's own code serves, where that code was allowed.
        framework: whose classes are meant, "pt" or "tf".
        written_by: the version of transformers that wrote the checkpoint, or None.
    """

    source: str
    model_type: str | None
    architectures: tuple[str, ...]
    is_sentence_encoder: bool = False
    remote: tuple[str, ...] = ()
    framework: str = "pt"
    written_by: str | None = None


def identity_of(checkpoint: Checkpoint, *, trust_remote_code: bool = False, framework: str = "pt") -> Identity:
    """The identity of a checkpoint on disk."""
    auto_map = checkpoint.config.get("auto_map") if trust_remote_code else None
    remote = tuple(map(str, auto_map)) if isinstance(auto_map, dict) else ()
    return Identity(
        checkpoint.source,
        checkpoint.model_type,
        _trained_for(checkpoint) or checkpoint.architectures,
        is_sentence_encoder(checkpoint),
        remote,
        framework,
        written_by(checkpoint.config),
    )


def _trained_for(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The classes of the task that the checkpoint's adapter was trained for, () without one."""
    task = TASK_TYPES.get(checkpoint.adapter.task_type or "") if checkpoint.adapter is not None else None
    autos = find_task(task).auto if task is not None else ()
    return tuple(name for auto in autos for name in class_names(auto, checkpoint.model_type or ""))


def identity_of_model(model: Any, framework: str = "pt") -> Identity:
    """The identity of a live transformers model (or of anything with a `config`)."""
    name = type(model).__name__
    architecture = name.removeprefix("TF") if framework == "tf" else name
    return Identity(
        f"the given {name}", getattr(model.config, "model_type", None), (architecture,), framework=framework
    )


@dataclass(frozen=True)
class DetectedTask:
    """A task, and notes for the user about how it was found."""

    task: Task
    notes: tuple[str, ...] = ()


def detect_task(identity: Identity) -> DetectedTask:
    """The task of a checkpoint (`--task auto`).

    The first row of the table whose auto class holds the architecture; of base models, the row whose inputs they take;
    sentence-transformers folders are feature extractors.

    Raises:
        CheckpointError: config.json does not name a model type or class, or transformers does not know it.
        TaskError: a class that is for none of the table's tasks.
    """
    if identity.is_sentence_encoder:
        return DetectedTask(find_task("feature-extraction"))
    model_type = known_model_type(identity)
    if not identity.architectures:
        raise CheckpointError(
            f"config.json of {identity.source} names no architecture, so its task is unknown.",
            hint=f"Say what the model is for: `--task` {_either(tasks_of_type(model_type, identity.framework))}.",
        )
    for architecture in identity.architectures:
        detected = _task_of_class(architecture, model_type, identity.framework)
        if detected is not None:
            return detected
    cls = tower(identity.architectures) if identity.framework == "pt" else None
    row = next((row for row in TASKS if cls is not None and _is_base_row(row, cls)), None)
    if row is not None:
        return DetectedTask(row)
    remote = [row for row in TASKS if set(row.auto) & set(identity.remote)]
    if remote:
        # Of own code only the auto classes are known; a base model is taken to read text.
        return DetectedTask(next((row for row in remote if row.auto != ("AutoModel",)), remote[-1]))
    architecture = identity.architectures[0]
    possible = tasks_of_type(model_type, identity.framework)
    base = [row for row in possible if row.name == "fill-mask" or row.auto == ("AutoModel",)]
    if architecture.endswith("ForPreTraining") and base:
        # Trained for several heads at once: the masked words if it has them, else its features.
        row = base[0]
        note = f"{architecture} has heads for several tasks; {row.name} was chosen, `--task` chooses another."
        return DetectedTask(row, (note,))
    raise _no_task(identity, possible)


def _task_of_class(architecture: str, model_type: str, framework: str) -> DetectedTask | None:
    """The task of one class, None where no row of the table has it."""

    def is_of(auto: str) -> bool:
        return architecture in class_names(auto, model_type, framework)

    if is_of(_IMAGE_TEXT) and _has_images_in_text(architecture, framework):
        note = f"{architecture} also works without images: `--task text-generation`."
        return DetectedTask(find_task("image-text-to-text"), (note,) if is_of("AutoModelForCausalLM") else ())
    # A class that writes text (BART) must not become a row that happens to know it for something else (fill-mask).
    allowed = set(_GENERATIVE) if any(map(is_of, _GENERATIVE)) else None
    for row in TASKS:
        autos = [auto for auto in row.auto if is_of(auto) and (allowed is None or auto in allowed)]
        if any(auto != "AutoModel" or _takes_inputs_of(row, architecture, framework) for auto in autos):
            return DetectedTask(row)
    return None


def _is_base_row(row: Task, cls: Any) -> bool:
    """Whether a row is that of base models which take the inputs of a class."""
    main_input: str = getattr(cls, "main_input_name", "input_ids")
    return row.auto == ("AutoModel",) and main_input == ("pixel_values" if row.kind == "image" else "input_ids")


def _no_task(identity: Identity, possible: list[Task]) -> TaskError:
    architecture = identity.architectures[0]
    written = identity.written_by
    if written is not None and is_newer(written) and class_named(architecture, identity.framework) is None:
        return TaskError(
            f"{identity.source} is a {architecture}, written by transformers {written}; the installed one has no such "
            "class.",
            hint=upgrade_hint(written),
        )
    return TaskError(
        f"{identity.source} is a {architecture}, which is for none of the tasks that can be converted.",
        hint=f"Its family can be converted for {_either(possible)}: say so with `--task`."
        if possible
        else "`onnxport tasks` shows what can be converted.",
    )


def check_task(task: Task, identity: Identity) -> None:
    """Make sure that the checkpoint's family has a head for `task`.

    Raises:
        CheckpointError: transformers does not know the family.
        TaskError: it has none; names the tasks that it has.
    """
    model_type = known_model_type(identity)
    possible = tasks_of_type(model_type, identity.framework)
    if task in possible or set(task.auto) & set(identity.remote):
        return
    what = identity.architectures[0] if identity.architectures else f"{model_type!r} model"
    raise TaskError(
        f"{identity.source} is a {what}, which cannot do {task.name}.",
        hint=f"Use `--task` {_either(possible)}." if possible else "`onnxport tasks` shows what can be converted.",
    )


def tasks_of_type(model_type: str, framework: str = "pt") -> list[Task]:
    """The rows that the family `model_type` has a class for, in table order."""
    rows = []
    for row in TASKS:
        names = [name for auto in row.auto for name in class_names(auto, model_type, framework)]
        if "AutoModel" in row.auto:
            names = [name for name in names if _takes_inputs_of(row, name, framework)]
        if names:
            rows.append(row)
    return rows


def own_tasks(identity: Identity) -> list[str]:
    """Names of the tasks that the checkpoint's own class is for, not only its family."""
    model_type = identity.model_type or ""
    return [
        row.name
        for row in TASKS
        if any(
            name in class_names(auto, model_type, identity.framework)
            for auto in row.auto
            for name in identity.architectures
        )
    ]


def known_model_type(identity: Identity) -> str:
    """The checkpoint's model type, if transformers has it (or its own code was allowed).

    Raises:
        CheckpointError: none, or an unknown one.
    """
    from transformers import CONFIG_MAPPING, __version__

    if identity.model_type is None:
        raise CheckpointError(
            f"config.json of {identity.source} has no model_type.",
            hint="Give a folder written by transformers' `save_pretrained`.",
        )
    if identity.model_type not in CONFIG_MAPPING and not identity.remote:
        raise CheckpointError(
            f"transformers {__version__} does not know the model type {identity.model_type!r}"
            + (f"; transformers {identity.written_by} wrote the checkpoint." if identity.written_by else "."),
            hint=unknown_type_hint(identity.model_type, identity.written_by, CONFIG_MAPPING, identity.framework),
        )
    return identity.model_type


def _has_images_in_text(architecture: str, framework: str) -> bool:
    """Whether the class puts its images into the sequence of its text; an encoder-decoder does not."""
    model_class = class_named(architecture, framework)
    config_class = getattr(model_class, "config_class", None)
    return hasattr(model_class, "get_image_features") and not getattr(config_class, "is_encoder_decoder", False)


def _takes_inputs_of(row: Task, architecture: str, framework: str) -> bool:
    """Whether a base model takes the inputs of a row: text, or an image."""
    model_class = class_named(architecture, framework)
    if model_class is None:
        return False
    # CLIP and its like are in the table of base models too, but take an image and texts together.
    model_type = getattr(getattr(model_class, "config_class", None), "model_type", "")
    paired = (auto for other in TASKS if other.kind in IMAGE_AND_TEXTS for auto in other.auto)
    if any(architecture in class_names(auto, model_type, framework) for auto in paired):
        return False
    if _joins_modalities(model_class):
        return False
    return main_input_of(model_class) == ("pixel_values" if row.kind == "image" else "input_ids")


def _joins_modalities(model_class: Any) -> bool:
    """Whether a base model puts features of images, videos or sound into its text; without them it is another model."""
    # The classes of TensorFlow have `call`.
    called = getattr(model_class, "forward", None) or model_class.call
    takes = inspect.signature(called).parameters
    features = ("get_image_features", "get_video_features", "get_audio_features")
    return "input_ids" in takes and any(hasattr(model_class, name) for name in features)


def _either(tasks: Iterable[Task]) -> str:
    names = [task.name for task in tasks]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "with one of `onnxport tasks`"
