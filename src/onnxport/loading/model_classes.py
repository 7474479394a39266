"""Which classes transformers has for a family of models, for PyTorch and for TensorFlow.

The TF classes are called as those of PyTorch with "TF" before it, and a checkpoint that one of them wrote names the
class without it. So architectures and auto classes have the names of PyTorch everywhere but here.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from onnxport.loading.own_auto_classes import auto_class

_TF = "TF"
_TOWERS = (
    "TextModelWithProjection", "VisionModelWithProjection", "AudioModelWithProjection", "EncoderModel", "TextModel",
    "VisionModel", "AudioModel",
)  # fmt: skip
# What is called otherwise among the TF classes.
_OTHERWISE = {"AutoModelForImageTextToText": ("AutoModelForImageTextToText", "AutoModelForVision2Seq")}


def class_names(auto: str, model_type: str, framework: str = "pt") -> tuple[str, ...]:
    """Names of the classes that the auto class `auto` has for `model_type`, without "TF"."""
    if framework != "tf":
        return _names([_auto_class("modeling_auto", auto)], model_type)
    known = [_auto_class("modeling_tf_auto", _TF + name) for name in _OTHERWISE.get(auto, (auto,))]
    if any(cls is not None for cls in known):
        return tuple(name.removeprefix(_TF) for name in _names(known, model_type))
    # There are TF classes for CTC, say, but no auto class.
    names = _names([_auto_class("modeling_auto", auto)], model_type)
    return tuple(name for name in names if class_named(name, "tf") is not None)


def tensorflow_class(auto: Iterable[str], config: Any) -> Any:
    """The TF class that the first of the auto classes with one for `config` has; None where none has."""
    for name in auto:
        names = class_names(name, config.model_type, "tf")
        named = [one for one in names if one in (config.architectures or ())]
        if names:
            return class_named((named or list(names))[0], "tf")
    return None


def _auto_class(module: str, name: str) -> Any:
    if module == "modeling_auto":
        return auto_class(name)
    return getattr(import_module(f"transformers.models.auto.{module}"), name, None)


def _names(auto_classes: Iterable[Any], model_type: str) -> tuple[str, ...]:
    found: list[str] = []
    for cls in auto_classes:
        names = cls._model_mapping._model_mapping.get(model_type, ()) if cls is not None else ()
        found += (names,) if isinstance(names, str) else names
    return tuple(found)


def class_named(architecture: str, framework: str = "pt") -> Any:
    """The class of that name; None where transformers has none."""
    import transformers

    return getattr(transformers, f"{_TF}{architecture}" if framework == "tf" else architecture, None)


def tower(architectures: Iterable[str]) -> Any:
    """The class of a tower that no auto class loads as it is saved: an encoder alone, or one with its projection.

    CLIPTextModelWithProjection, say, of which AutoModel loads CLIPTextModel, without the projection; or T5EncoderModel,
    of which AutoModel loads T5Model, with a decoder. None for any other class.
    """
    for name in architectures:
        cls = class_named(name)
        if cls is not None and name.endswith(_TOWERS) and not name.startswith(_TF):
            return cls
    return None
