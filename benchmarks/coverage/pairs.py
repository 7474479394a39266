"""The pairs of the matrix: every model type of transformers' auto mappings, with every task that a row serves.

What a base model (`AutoModel`) is for is read from the parameters of its `forward`, not from onnxport: the code under
test does not decide what is asked of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import transformers

from onnxport.loading.own_auto_classes import auto_class
from onnxport.tasks import TASKS, Task

MODALITIES = {
    "text": "text", "text-pair": "text", "choices": "text", "decoder": "text", "image": "image",
    "image-in-text": "image and text", "image+texts": "image and text",
    "image+queries": "image and text", "image+points": "image", "series": "series", "audio": "sound", "video": "video",
}  # fmt: skip

_BASE = "AutoModel"
_IMAGES = ("pixel_values", "flattened_patches")
_SOUNDS = ("input_values", "input_features", "audio_values")


@dataclass(frozen=True)
class Pair:
    """One cell of the matrix.

    Attributes:
        model_type: key of transformers' auto mappings.
        task: name of the row of the task table.
        architecture: class of the model.
        modality: of its inputs.
    """

    model_type: str
    task: str
    architecture: str
    modality: str

    @property
    def name(self) -> str:
        """Of its checkpoint, job and folder."""
        return f"{self.model_type}.{self.task}"


def every_pair(only: Container[str] | None = None) -> list[Pair]:
    """The pairs in the order of the task table; each model type once for every task.

    Args:
        only: model types; their modelling code alone is imported. None is all.
    """
    found: dict[str, Pair] = {}
    for row in TASKS:
        for auto in row.auto:
            for model_type, names in _mapping(auto).items():
                if only is not None and model_type not in only:
                    continue
                for name in names if isinstance(names, (list, tuple)) else (names,):
                    if name and _serves(row, auto, name):
                        pair = Pair(model_type, row.name, name, MODALITIES[row.kind])
                        found.setdefault(pair.name, pair)
    return list(found.values())


def without_row() -> dict[str, str]:
    """Base models that take what no row takes (sound, video, several inputs): model type -> their first inputs."""
    served = {pair.model_type for pair in every_pair()}
    types: dict[str, str] = {}
    for model_type, names in _mapping(_BASE).items():
        name = names if isinstance(names, str) else names[0]
        if model_type not in served and (model := _class(name)) is not None:
            types[model_type] = ", ".join(_parameters(model)[:3])
    return types


def _mapping(auto: str) -> dict[str, Any]:
    """Model type -> name or names of classes."""
    found = getattr(transformers, auto, None) or auto_class(auto)
    return dict(found._model_mapping._model_mapping)


def _class(name: str) -> Any:
    try:
        return getattr(transformers, name, None)
    except Exception:  # a class of a library that is not installed
        return None


def _parameters(model: Any) -> list[str]:
    try:
        return [name for name in inspect.signature(model.forward).parameters if name != "self"]
    except ImportError:  # the class is a stand-in that names a library that is not installed
        return []


def _serves(row: Task, auto: str, architecture: str) -> bool:
    """Whether the row is meant for the class."""
    model = _class(architecture)
    if model is None:
        return False
    takes = _parameters(model)
    if row.kind == "audio" and not any(name in takes for name in _SOUNDS):
        return False  # a text is read aloud
    if row.kind == "image" and _main_input(model) == "pixel_values_videos":
        return False
    if auto == "AutoModelForImageTextToText":
        images_in_text = hasattr(model, "get_image_features") and not getattr(
            model.config_class, "is_encoder_decoder", False
        )
        return images_in_text == (row.kind == "image-in-text")
    if auto != _BASE:
        return True
    return base_kind(model) == row.kind


def base_kind(model: Any) -> str | None:
    """Kind of inputs of a base model, "text" or "image"; None where it takes both, sound or something else."""
    takes = _parameters(model)
    if any(name in takes for name in _SOUNDS):
        return None
    has_images, has_text = any(name in takes for name in _IMAGES), "input_ids" in takes
    if has_images and has_text:
        # A decoder of text that may be given images, or a model of pairs: no row has one graph of both.
        return None
    if has_images and "num_frames" in inspect.signature(model.config_class.__init__).parameters:
        return None  # clips, which no row takes for hidden states
    if has_images:
        return "image"
    return "text" if has_text else None


def _main_input(model: Any) -> str:
    """ "" also for a class whose library is missing: it raises at every attribute."""
    try:
        return str(getattr(model, "main_input_name", ""))
    except ImportError:
        return ""
