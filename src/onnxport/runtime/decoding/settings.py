"""How to generate: what generation_config.json says, and what the caller says instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from onnxport.errors import UsageError, did_you_mean
from onnxport.formats.json_file import read_object

_NEW_TOKENS = 256
_DRAWN_FROM = 50  # transformers' top_k wherever it draws and nothing else is said
_DECODER_CONFIGS = ("decoder", "generator", "text_config")
# How many positions the decoder has, by the names that configs use.
_POSITIONS = ("max_target_positions", "max_position_embeddings", "n_positions")
# Settings of transformers that change the text and that this run time does not do, with the value that is harmless.
_ABSENT: dict[str, Any] = {
    "guidance_scale": None, "penalty_alpha": None, "top_h": None, "num_beam_groups": 1, "diversity_penalty": 0.0,
    "constraints": None, "force_words_ids": None, "max_time": None, "watermarking_config": None, "dola_layers": None,
    "prompt_lookup_num_tokens": None, "token_healing": False,
}  # fmt: skip


@dataclass(frozen=True)
class GenerationSettings:
    """transformers' settings by transformers' names.

    Attributes:
        max_new_tokens, max_length: most tokens of an answer, and of prompt and answer together (of an
            encoder-decoder the prompt is its start token); the first wins. With neither it is 256 new tokens, or
            as many as the model has positions for.
        min_new_tokens, min_length: no end of text before so many; the first wins.
        do_sample: draw a token; else take the best.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: how the distribution is changed
            before drawing; 1, 0, 1, None, 1, 0 and 0 change nothing.
        repetition_penalty: above 1 makes tokens that were there before less likely.
        encoder_repetition_penalty: above 1 makes tokens of the encoder's input more likely.
        no_repeat_ngram_size, encoder_no_repeat_ngram_size: no run of so many tokens comes twice, or is one of the
            encoder's input; 0 for no rule.
        bad_words_ids: runs of tokens that are never written.
        sequence_bias: (run of tokens, number added to the score of its last token).
        forced_bos_token_id: the token after the start token.
        forced_eos_token_id: the last tokens when the answer is as long as it may be.
        suppress_tokens, begin_suppress_tokens: tokens that are never written, and not as the first.
        exponential_decay_length_penalty: (new tokens before it starts, factor): ends become more likely.
        remove_invalid_values: nan and infinities of a graph become numbers.
        renormalize_logits: scores are log-probabilities after all rules.
        num_beams: texts that are followed at once; 1 follows the best token.
        length_penalty: of beams; above 0 prefers long texts.
        early_stopping: True ends beams with the first `num_beams` texts; False when better ones are unlikely;
            "never" when there can be none.
        num_return_sequences: texts for each prompt.
        eos_token_id: tokens that end a text.
        pad_token_id: what rows get that ended before others.
        bos_token_id, decoder_start_token_id: what the answer of an encoder-decoder begins with: the second, or if it
            is None the first.
        stop_strings: texts that end an answer; they stay in it.
        seed: of the draws; None is different every time.
        positions: how many the decoder has, from config.json.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    exponential_decay_length_penalty: tuple[float, float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int = 0
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    stop_strings: tuple[str, ...] = ()
    seed: int | None = None
    positions: int | None = None

    def __post_init__(self) -> None:
        for name, right in self._limits().items():
            if not right:
                hint = "Use do_sample=False for the best token." if name == "temperature" else None
                raise UsageError(f"{name}={getattr(self, name)} is out of range.", hint=hint)
        if self.num_return_sequences > 1 and not self.do_sample and self.num_return_sequences > self.num_beams:
            raise UsageError(
                f"num_return_sequences={self.num_return_sequences} is more than there are.",
                hint=f"Give num_beams={self.num_return_sequences}, or do_sample=True to draw several.",
            )

    def changed(self, **overrides: Any) -> GenerationSettings:
        """The same settings with others.

        Raises:
            UsageError: no such setting, or a value out of range.
        """
        return replace(self, **known_settings(overrides))

    def longest(self, prompt: int) -> int:
        """Most tokens of prompt and answer together, for a prompt of `prompt` tokens.

        Raises:
            UsageError: there is no room for an answer.
        """
        if self.max_new_tokens is not None:
            return prompt + self.max_new_tokens
        whole = self.max_length
        if whole is None:
            whole = min(prompt + _NEW_TOKENS, self.positions or prompt + _NEW_TOKENS)
        if whole <= prompt:
            what = f"max_length={self.max_length}" if self.max_length is not None else f"{self.positions} positions"
            raise UsageError(
                f"The prompt has {prompt} tokens, and {what} leaves no room for an answer.",
                hint="Give a shorter prompt, or max_new_tokens.",
            )
        return whole

    def shortest(self, prompt: int) -> int:
        """Fewest tokens of prompt and answer together."""
        return self.min_length if self.min_new_tokens is None else prompt + self.min_new_tokens

    def first_token(self) -> int:
        """What the answer of an encoder-decoder begins with.

        Raises:
            UsageError: nobody says.
        """
        first = self.bos_token_id if self.decoder_start_token_id is None else self.decoder_start_token_id
        if first is None:
            raise UsageError(
                "Neither generation_config.json nor config.json says what an answer begins with.",
                hint="Give decoder_start_token_id.",
            )
        return first

    def _limits(self) -> dict[str, bool]:
        return {
            "max_new_tokens": self.max_new_tokens is None or self.max_new_tokens > 0,
            "max_length": self.max_length is None or self.max_length > 0,
            "min_new_tokens": self.min_new_tokens is None or self.min_new_tokens >= 0,
            "min_length": self.min_length >= 0,
            "temperature": self.temperature > 0, "top_k": self.top_k >= 0, "top_p": 0 < self.top_p <= 1,
            "min_p": self.min_p is None or 0 <= self.min_p <= 1, "typical_p": 0 < self.typical_p <= 1,
            "epsilon_cutoff": 0 <= self.epsilon_cutoff < 1, "eta_cutoff": 0 <= self.eta_cutoff < 1,
            "repetition_penalty": self.repetition_penalty > 0, "num_beams": self.num_beams > 0,
            "encoder_repetition_penalty": self.encoder_repetition_penalty > 0,
            "no_repeat_ngram_size": self.no_repeat_ngram_size >= 0,
            "encoder_no_repeat_ngram_size": self.encoder_no_repeat_ngram_size >= 0,
            "early_stopping": self.early_stopping in (True, False, "never"),
            "num_return_sequences": self.num_return_sequences > 0,
            "bad_words_ids": all(self.bad_words_ids), "sequence_bias": all(ids for ids, _ in self.sequence_bias),
        }  # fmt: skip


def read_settings(folder: Path, defaults: Mapping[str, Any] | None = None, **overrides: Any) -> GenerationSettings:
    """What the folder's generation_config.json says, and `overrides`; without that file config.json is asked.

    Args:
        defaults: for what neither says; `max_new_tokens` is no default where a `max_length` is said.

    Raises:
        UsageError: they ask for something that this run time does not do.
    """
    return settings_from(read_generation_config(folder), defaults, **overrides)


def settings_from(
    said: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, **overrides: Any
) -> GenerationSettings:
    """Settings by what `read_generation_config` gives; the rest as for `read_settings`."""
    for name in _ABSENT:
        if name in said and said[name] != _ABSENT[name] and name not in overrides:
            raise UsageError(
                f"generation_config.json asks for {name}={said[name]}, which onnxport.runtime does not do yet.",
                hint=f"Give {name}={_ABSENT[name]} to generate without it.",
            )
    names = {field.name for field in fields(GenerationSettings)}
    own = known_settings({name: value for name, value in said.items() if name in names})
    given = known_settings(overrides)
    for name, value in known_settings(defaults or {}).items():
        if not (name in own or name in given or (name == "max_new_tokens" and "max_length" in own | given)):
            own[name] = value
    chosen = own | given
    if chosen.get("do_sample") and "top_k" not in chosen:
        chosen["top_k"] = _DRAWN_FROM
    if "pad_token_id" not in chosen and chosen.get("eos_token_id"):
        chosen["pad_token_id"] = chosen["eos_token_id"][0]
    return GenerationSettings(**chosen)


def read_generation_config(folder: Path) -> dict[str, Any]:
    """What the folder says about generating, without what it leaves open, and `positions` of config.json."""
    config, said = _read(folder / "config.json"), _read(folder / "generation_config.json")
    decoder: dict[str, Any] = next(
        (config[name] for name in _DECODER_CONFIGS if isinstance(config.get(name), dict)), {}
    )
    inner = {name: value for name, value in decoder.items() if value is not None}
    if not said:
        said = inner | config
    # A row of config.json that has the name of a setting and is none.
    said.pop("positions", None)
    positions = [part[name] for part in (inner, config) for name in _POSITIONS if isinstance(part.get(name), int)]
    return said | ({"positions": positions[0]} if positions else {})


def known_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of fields, lists as tuples; None is what a setting is without being said.

    Raises:
        UsageError: no such setting, or none that this run time does.
    """
    defaults = {field.name: field.default for field in fields(GenerationSettings)}
    made = {}
    for name, value in values.items():
        if name in _ABSENT and value == _ABSENT[name]:
            continue
        if name in _ABSENT:
            raise UsageError(f"onnxport.runtime does not do {name} yet.", hint=f"Leave {name} out.")
        if name not in defaults:
            raise UsageError(f"There is no setting {name!r}.", hint=did_you_mean(name, list(defaults)))
        if name == "sequence_bias" and isinstance(value, Mapping):
            value = list(value.items())
        if name in ("eos_token_id", "forced_eos_token_id", "stop_strings") and isinstance(value, (int, str)):
            value = (value,)
        made[name] = defaults[name] if value is None else _frozen(value)
    return made


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _read(path: Path) -> dict[str, Any]:
    return {k: v for k, v in (read_object(path) if path.is_file() else {}).items() if v is not None}
