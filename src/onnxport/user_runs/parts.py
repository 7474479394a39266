"""Config, tokenizer, processors and generation settings as plain values, and where two of them differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from onnxport.artifact.javascript_settings import without_javascript_settings
from onnxport.loading.components import LOADERS

PARTS = ("config", "tokenizer", "image_processor", "feature_extractor", "processor", "generation_config")
TOKENIZER_FILE = "tokenizer.json"
# What says where and how an object was loaded, not what it does.
_VOLATILE = frozenset({
    "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "_attn_implementation",
    "attn_implementation", "_attn_implementation_autoset", "_experts_implementation", "_from_model_config",
    "_commit_hash", "processor_class", "auto_map", "use_cache", "_processor_class", "image_processor_type",
    "feature_extractor_type", "tokenizer_class", "backend", "is_local", "local_files_only",
})  # fmt: skip
_TOKENIZER = (
    "model_max_length", "padding_side", "truncation_side", "chat_template", "model_input_names", "bos_token",
    "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "all_special_tokens",
)  # fmt: skip
_UNLIMITED = 1_000_000  # tokenizers without a limit have one of 1e30


def describe(pipeline: Any) -> dict[str, Any]:
    """The parts of a pipeline, each as JSON types: name of `PARTS` -> values."""
    return {name: describe_part(name, part) for name, part in parts_of(pipeline).items()}


def parts_of(pipeline: Any) -> dict[str, Any]:
    """Config, tokenizer, processors and generation settings of a source's pipeline, without those that it lacks."""
    model = getattr(pipeline, "model", None)
    found = {name: getattr(pipeline, name, None) for name in PARTS[1:5]}
    found |= {name: getattr(model, name, None) for name in (PARTS[0], PARTS[5])}
    return {name: part for name, part in found.items() if part is not None}


def describe_part(name: str, part: Any) -> Any:
    """One part as JSON types."""
    if name == "tokenizer":
        return _tokenizer(part)
    if name == "processor":
        # Its parts are described by themselves.
        own = {key: value for key, value in vars(part).items() if key not in PARTS and not hasattr(value, "to_dict")}
        return _plain({key: value for key, value in own.items() if key not in ("tokenizer", "audio_tokenizer")})
    return _plain(without_javascript_settings(part.to_dict()))


def load_part(folder: Path, name: str) -> Any:
    """One part of a folder as transformers loads it; None if the folder has none.

    Raises:
        Exception: what transformers raises for a file that it cannot read.
    """
    from transformers import AutoConfig, GenerationConfig, PretrainedConfig  # transformers 4 has this name too

    if name == "generation_config":
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    if name != "config":
        return LOADERS[name](folder, False)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError):  # a model type that transformers does not have
        return PretrainedConfig.from_pretrained(folder, local_files_only=True)


def set_sentence_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Change a folder's tokenizer as loading a sentence encoder changes that of the checkpoint."""
    if (folder / "modules.json").is_file():
        from onnxport.loading.encoder import tokenizer_settings

        tokenizer_settings(folder, load_part(folder, "config")).apply(tokenizer)


def read_tokenizer_file(file: Path) -> str:
    """A tokenizer.json as `describe_part` has it.

    Raises:
        Exception: the file is no such file.
    """
    from tokenizers import Tokenizer

    return _backend(Tokenizer.from_file(str(file)))


def first_difference(expected: Any, found: Any, where: str) -> str | None:
    """The first place where two descriptions differ, with both values; None if they are equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in [*expected, *(name for name in found if name not in expected)]:
            if name not in expected or name not in found:
                one = expected.get(name, "nothing")
                other = found.get(name, "nothing")
                return f"{where}: {name} is {_short(other)} instead of {_short(one)}"
            if told := first_difference(expected[name], found[name], f"{where}, {name}"):
                return told
        return None
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return next((told for n, (e, f) in pairs if (told := first_difference(e, f, f"{where}[{n}]"))), None)
    if isinstance(expected, str) and isinstance(found, str) and expected[:1] == found[:1] == "{" and expected != found:
        with suppress(ValueError):  # a chat template may begin so too
            return first_difference(json.loads(expected), json.loads(found), where)
    return None if expected == found else f"{where} is {_short(found)} instead of {_short(expected)}"


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    values = {name: getattr(tokenizer, name, None) for name in _TOKENIZER}
    if isinstance(values["model_max_length"], int) and values["model_max_length"] > _UNLIMITED:
        values["model_max_length"] = None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        values["vocabulary"] = dict(sorted(tokenizer.get_vocab().items()))
    else:
        values[TOKENIZER_FILE] = _backend(backend)
    plain: dict[str, Any] = _plain(values)
    return plain


def _backend(backend: Any) -> str:
    """The text of tokenizer.json without padding and truncation, which every call of a tokenizer sets anew."""
    from tokenizers import Tokenizer

    copy: Any = Tokenizer.from_str(backend.to_str()) if backend.padding or backend.truncation else backend
    copy.no_padding()
    copy.no_truncation()
    text: str = copy.to_str()
    return text


def _plain(value: Any) -> Any:
    """As JSON types; what is volatile, and what is None or private, is left out."""
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item)
            for key, item in value.items()
            if key not in _VOLATILE and item is not None and not str(key).startswith("_")
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, int):
        return int(value)  # enumerations too: PIL's resampling
    if isinstance(value, float):
        return float(value)
    return str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
