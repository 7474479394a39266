"""Tokenizer, image processor, feature extractor and processor of a model type, as transformers maps them."""

from __future__ import annotations

import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES as _SOUNDS
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as _IMAGES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES as _PROCESSORS

from benchmarks.coverage.settings import FEATURE_EXTRACTORS, PROCESSORS
from benchmarks.coverage.tokenizers import marks_in, tokenizer_of
from benchmarks.coverage.without_videos import VIDEO, is_without_videos, save_both, without_videos

_ASKED = re.compile(r'getattr\((?:self\.)?tokenizer, "(\w+_token)(?:_id)?", None\)|tokenizer\.(\w+_token)(?:_id)?\b')
_USUAL = ("bos_", "eos_", "pad_", "unk_", "cls_", "sep_", "mask", "add_")
_MOST_TOKENS = 16
_NAMED_TOKEN = re.compile(r"(has no attribute|missing required attribute) '?(?P<name>\w+_token(_id)?)\b")


class Preprocessing:
    """What is saved beside a model.

    Attributes:
        parts: name ("tokenizer", "image_processor", "feature_extractor", "processor") -> object.
        missing: what could not be made -> why.
        side: height and width of images that the model takes, None where its config names none.
    """

    def __init__(self) -> None:
        self.side: int | None = None  # of images that the model takes
        self.parts: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}  # of the processor's constructor
        self.sizes: dict[str, Any] = {}  # of the image processor by default
        self.missing: dict[str, str] = {}

    def save(self, folder: Any) -> None:
        """Write all files; a processor writes those that it is made of."""
        saved = ("processor",) if "processor" in self.parts else tuple(self.parts)
        for name in saved:
            if name == "processor" and is_without_videos(self.parts[name]):
                save_both(self.parts[name], folder)
            else:
                self.parts[name].save_pretrained(folder)


def preprocessing_of(model_type: str, *, text: bool) -> Preprocessing:
    """Make everything that the mappings have for a type.

    Args:
        model_type: key of the mappings.
        text: whether the task needs a tokenizer, also where no mapping has the type.
    """
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    made = Preprocessing()
    processor = _class(_processor_name(model_type))
    family = _family(model_type) if processor is not None else [model_type]
    if names := next(filter(None, (_names(_IMAGES.get(one)) for one in family)), []):
        _try(made, "image_processor", lambda: _image_processor(_first(names)))
    if name := FEATURE_EXTRACTORS.get(model_type) or next(filter(None, map(_SOUNDS.get, family)), None):
        _try(made, "feature_extractor", lambda: _first(_names(name))())
    if text or model_type in TOKENIZER_MAPPING_NAMES or (processor and "tokenizer" in _attributes(processor)):
        _try(made, "tokenizer", lambda: tokenizer_of(model_type, marks_in(processor) if processor else ()))
    if processor is not None:
        _try(made, "processor", lambda: _processor(processor, made))
    return made


def _image_processor(kind: Any) -> Any:
    made = kind()
    if hasattr(made, "apply_ocr"):  # the words of a page come with the tokens, and need no other program
        made.apply_ocr = False
    if getattr(made, "clusters", "") is None:
        made.clusters = np.random.default_rng(0).uniform(-1, 1, (64, 3))
    return made


def _processor_name(model_type: str) -> str | None:
    """The processor of a type. Some are in no mapping: theirs has the name of the model, or is in the table."""
    if name := _PROCESSORS.get(model_type):
        return str(name)
    own = str(CONFIG_MAPPING_NAMES.get(model_type, "")).replace("Config", "Processor")
    if own in dir(transformers):
        return own
    return PROCESSORS.get(model_type)


def _family(model_type: str) -> list[str]:
    """The type, and those that share its processor: some types are in one mapping and not in another."""
    name = _processor_name(model_type)
    return [model_type, *(one for one, other in _PROCESSORS.items() if other == name and one != model_type)]


def _try(made: Preprocessing, name: str, make: Any) -> None:
    try:
        made.parts[name] = make()
    except Exception as error:
        made.missing[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _names(entry: Any) -> list[str]:
    if isinstance(entry, dict):  # without torchvision only the classes of PIL exist
        return [entry[key] for key in ("pil", "torchvision") if entry.get(key)]
    return [name for name in (entry if isinstance(entry, (list, tuple)) else [entry]) if name]


def _first(names: list[str]) -> Any:
    for name in names:
        if (found := _class(name)) is not None:
            return found
    raise ImportError(f"no class of {names}")


def _class(name: Any) -> Any:
    try:
        return getattr(transformers, name) if name else None
    except Exception:  # needs a library that is not installed
        return None


def _attributes(processor: Any) -> list[str]:
    try:
        return list(processor.get_attributes())
    except Exception:
        return []


def _processor(kind: Any, made: Preprocessing) -> Any:
    """A processor of a class, from the parts that there are."""
    parts, values = made.parts, made.arguments
    signature = inspect.signature(kind.__init__).parameters
    for name in _names_asked(kind):
        if "tokenizer" in parts and getattr(parts["tokenizer"], name, None) is None:
            _name_token(parts["tokenizer"], name)
    if VIDEO in _attributes(kind):
        kind = without_videos(kind, Path(tempfile.mkdtemp()))
    for name in _attributes(kind):
        role = next((role for role in parts if role in name), None)
        if role is None:
            raise ValueError(made.missing.get(name) or f"{kind.__name__} needs {name}, which has no mapping")
        else:
            values[name] = parts[role]
    for name, parameter in signature.items():
        if name == "patch_size" and parameter.default is None:
            values[name] = 16
        elif name == "vision_feature_select_strategy" and parameter.default is None:
            values[name] = "default"  # drops the class token, which the processor then has to count
            values["num_additional_image_tokens"] = 1
    for _ in range(_MOST_TOKENS):
        try:
            return kind(**values)
        except (AttributeError, ValueError) as error:
            named = _NAMED_TOKEN.search(str(error))
            if named is None or "tokenizer" not in parts:
                raise
            _name_token(parts["tokenizer"], named["name"].removesuffix("_id"))
    return kind(**values)


def _names_asked(kind: Any) -> list[str]:
    """Names like "image_token" under which a processor asks its tokenizer for tokens, and has no answer of its own."""
    try:
        code = inspect.getsource(kind)
    except (OSError, TypeError):
        return []
    names = dict.fromkeys(one for pair in _ASKED.findall(code) for one in pair if one)
    return [name for name in names if f'hasattr(tokenizer, "{name}")' not in code and name[:4] not in _USUAL]


def _name_token(tokenizer: Any, name: str) -> None:
    """Give a tokenizer a special token under the name by which its processor asks for it."""
    token = f"<{name.removesuffix('_token')}>"
    tokenizer.add_tokens([token], special_tokens=True)
    tokenizer._set_model_specific_special_tokens(special_tokens={name: token})
