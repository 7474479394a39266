"""How to generate: what generation_config.json says, and what the caller says instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from onnxport.errors import UsageError, did_you_mean
from onnxport.json_file import read_object

_NEW_TOKENS = 256
# Settings of transformers that change the text and that this run time does not do, with the value that is harmless.
_ABSENT: dict[str, Any] = {
    "num_beams": 1, "no_repeat_ngram_size": 0, "typical_p": 1.0, "guidance_scale": None, "penalty_alpha": None,
    "encoder_repetition_penalty": 1.0, "bad_words_ids": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "suppress_tokens": None, "begin_suppress_tokens": None, "num_return_sequences": 1,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "sequence_bias": None,
}  # fmt: skip


@dataclass(frozen=True)
class GenerationSettings:
    """transformers' settings by transformers' names.

    Attributes:
        max_new_tokens: most tokens of an answer.
        min_new_tokens: no end of text before so many.
        do_sample: draw a token; else take the best.
        temperature, top_k, top_p, min_p: how the distribution is changed before drawing; 1, 0, 1 and None
            change nothing.
        repetition_penalty: above 1 makes tokens that were there before less likely.
        eos_token_id: tokens that end a text.
        pad_token_id: what rows get that ended before others.
        stop_strings: texts that end an answer; they stay in it.
        seed: of the draws; None is different every time.
    """

    max_new_tokens: int = _NEW_TOKENS
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int = 0
    stop_strings: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "max_new_tokens": self.max_new_tokens > 0, "min_new_tokens": self.min_new_tokens >= 0,
            "temperature": self.temperature > 0, "top_k": self.top_k >= 0, "top_p": 0 < self.top_p <= 1,
            "min_p": self.min_p is None or 0 <= self.min_p <= 1, "repetition_penalty": self.repetition_penalty > 0,
        }  # fmt: skip
        for name, right in limits.items():
            if not right:
                hint = "Use do_sample=False for the best token." if name == "temperature" else None
                raise UsageError(f"{name}={getattr(self, name)} is out of range.", hint=hint)

    def changed(self, **overrides: Any) -> GenerationSettings:
        """The same settings with others.

        Raises:
            UsageError: no such setting, or a value out of range.
        """
        return replace(self, **_known(overrides))


def read_settings(folder: Path, **overrides: Any) -> GenerationSettings:
    """What the folder's generation_config.json and config.json say, and `overrides`.

    Raises:
        UsageError: they ask for something that this run time does not do, such as beams.
    """
    said: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        said |= {k: v for k, v in (read_object(path) if path.is_file() else {}).items() if v is not None}
    asked = {k: said[k] for k in _ABSENT if k in said and said[k] != _ABSENT[k]} if said else {}
    for name, value in asked.items():
        if name not in overrides:
            raise UsageError(
                f"generation_config.json asks for {name}={value}, which onnxport.runtime does not do yet.",
                hint=f"Give {name}={_ABSENT[name]} to generate without it.",
            )
    names = {field.name for field in fields(GenerationSettings)}
    own = {name: value for name, value in said.items() if name in names}
    if own.get("do_sample") and "top_k" not in own:
        own["top_k"] = 50  # transformers' default wherever it draws
    settings = GenerationSettings(**_known(own))
    if "pad_token_id" not in own and settings.eos_token_id:
        settings = replace(settings, pad_token_id=settings.eos_token_id[0])
    return settings.changed(**overrides)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of fields, ids and texts as tuples."""
    names = [field.name for field in fields(GenerationSettings)]
    made = {}
    for name, value in values.items():
        if name in _ABSENT and value == _ABSENT[name]:
            continue
        if name in _ABSENT:
            raise UsageError(f"onnxport.runtime does not do {name} yet.", hint=f"Leave {name} out.")
        if name not in names:
            raise UsageError(f"There is no setting {name!r}.", hint=did_you_mean(name, names))
        if name in ("eos_token_id", "stop_strings"):
            value = (value,) if isinstance(value, (int, str)) else tuple(value or ())
        made[name] = value
    return made
