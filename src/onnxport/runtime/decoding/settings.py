"""Settings of a generation: those of generation_config.json, and the caller's in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from onnxport.errors import UsageError, did_you_mean
from onnxport.formats.json_file import read_object_if_present

_DEFAULT_NEW_TOKENS = 256
_DEFAULT_TOP_K = 50  # of transformers, when it samples
_DECODER_CONFIGS = ("decoder", "generator", "text_config")
# Names of the decoder's number of positions in config.json.
_POSITIONS = ("max_target_positions", "max_position_embeddings", "n_positions")
# Settings of transformers that are not supported, with the value that changes nothing.
_UNSUPPORTED: dict[str, Any] = {
    "guidance_scale": None, "penalty_alpha": None, "top_h": None, "num_beam_groups": 1, "diversity_penalty": 0.0,
    "constraints": None, "force_words_ids": None, "max_time": None, "watermarking_config": None, "dola_layers": None,
    "prompt_lookup_num_tokens": None, "token_healing": False,
}  # fmt: skip


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of a generation, with the names and meanings of transformers' GenerationConfig.

    Attributes:
        max_new_tokens: most tokens of an answer.
        max_length: most tokens of prompt and answer together, if max_new_tokens is None; the prompt of an
            encoder-decoder is its start token. With neither, an answer has at most 256 tokens, or as many as the
            model has positions for.
        min_new_tokens: fewest tokens before the answer may end.
        min_length: the same for prompt and answer together, if min_new_tokens is None.
        do_sample: draw the next token instead of taking the most likely one.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: change the distribution before
            drawing. The values 1, 0, 1, None, 1, 0 and 0 change nothing.
        repetition_penalty: above 1 makes tokens of the prompt and the answer so far less likely.
        encoder_repetition_penalty: above 1 makes tokens of the encoder's input more likely.
        no_repeat_ngram_size: no n-gram of this size occurs twice; 0 allows all.
        encoder_no_repeat_ngram_size: no n-gram of this size is copied from the encoder's input; 0 allows all.
        bad_words_ids: sequences of tokens that are never written.
        sequence_bias: (sequence of tokens, number that is added to the score of its last token).
        forced_bos_token_id: the token after the start token.
        forced_eos_token_id: the possible last tokens of an answer that reaches its maximum length.
        suppress_tokens: tokens that are never written.
        begin_suppress_tokens: tokens that are not written first.
        exponential_decay_length_penalty: (new tokens before it starts, factor); end tokens become more likely.
        remove_invalid_values: replace NaN and infinities in the logits by numbers.
        renormalize_logits: make log-probabilities of the scores after all logits processors.
        num_beams: beams of a beam search; 1 for no beam search.
        length_penalty: of beam search; above 0 prefers long texts.
        early_stopping: when beam search ends: True with `num_beams` finished texts, False when better ones are
            unlikely, "never" when better ones are impossible.
        num_return_sequences: answers for each prompt.
        eos_token_id: tokens that end an answer.
        pad_token_id: token of rows that have ended before others.
        bos_token_id: start token of an encoder-decoder, if decoder_start_token_id is None.
        decoder_start_token_id: start token of an encoder-decoder.
        stop_strings: strings that end an answer; they stay in it.
        seed: of the random numbers; None for other ones in every call.
        positions: number of positions of the decoder, from config.json.
        first_timestamp_token_id: Whisper's token of 0 s, if answers have timestamps; None for answers without.
        max_initial_timestamp_index: most steps of the first timestamp; None for any.
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
    first_timestamp_token_id: int | None = None
    max_initial_timestamp_index: int | None = None

    def __post_init__(self) -> None:
        for name, right in self._limits().items():
            if not right:
                hint = "Use do_sample=False for the most likely token." if name == "temperature" else f"Omit {name}."
                raise UsageError(f"{name}={getattr(self, name)} is out of range.", hint=hint)
        if self.num_return_sequences > 1 and not self.do_sample and self.num_return_sequences > self.num_beams:
            raise UsageError(
                f"num_return_sequences={self.num_return_sequences} needs as many beams; num_beams is {self.num_beams}.",
                hint=f"Give num_beams={self.num_return_sequences}, or do_sample=True.",
            )

    def changed(self, **overrides: Any) -> GenerationSettings:
        """A copy with other values.

        Raises:
            UsageError: no such setting, or a value out of range.
        """
        return replace(self, **checked_settings(overrides))

    def longest(self, prompt: int) -> int:
        """Most tokens of prompt and answer together, for a prompt of `prompt` tokens.

        Raises:
            UsageError: there is no room for an answer.
        """
        if self.max_new_tokens is not None:
            return prompt + self.max_new_tokens
        whole = self.max_length
        if whole is None:
            whole = min(prompt + _DEFAULT_NEW_TOKENS, self.positions or prompt + _DEFAULT_NEW_TOKENS)
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
        """The start token of an encoder-decoder.

        Raises:
            UsageError: there is none.
        """
        first = self.bos_token_id if self.decoder_start_token_id is None else self.decoder_start_token_id
        if first is None:
            raise UsageError(
                "There is no start token for the decoder in generation_config.json or config.json.",
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
    """Settings of a folder: those of its generation_config.json, or without that file of its config.json.

    Args:
        defaults: values of settings that the folder does not have. A default `max_new_tokens` is not used if there
            is a `max_length`.
        overrides: replace those of the folder.

    Raises:
        UsageError: a setting that does not exist, is not supported, or is out of range.
    """
    return settings_from(read_generation_config(folder), defaults, **overrides)


def settings_from(
    generation_config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, **overrides: Any
) -> GenerationSettings:
    """As `read_settings`, from what `read_generation_config` returned."""
    for name in _UNSUPPORTED:
        asked = generation_config.get(name, _UNSUPPORTED[name])
        if asked != _UNSUPPORTED[name] and name not in overrides:
            raise UsageError(
                f"generation_config.json has {name}={asked}, which onnxport does not support.",
                hint=f"Set {name}={_UNSUPPORTED[name]} to generate without it.",
            )
    names = {field.name for field in fields(GenerationSettings)}
    own = checked_settings({name: value for name, value in generation_config.items() if name in names})
    given = checked_settings(overrides)
    for name, value in checked_settings(defaults or {}).items():
        if not (name in own or name in given or (name == "max_new_tokens" and "max_length" in own | given)):
            own[name] = value
    chosen = own | given
    if chosen.get("do_sample") and "top_k" not in chosen:
        chosen["top_k"] = _DEFAULT_TOP_K
    if "pad_token_id" not in chosen and chosen.get("eos_token_id"):
        chosen["pad_token_id"] = chosen["eos_token_id"][0]
    return GenerationSettings(**chosen)


def read_generation_config(folder: Path) -> dict[str, Any]:
    """generation_config.json of a folder, or without it config.json; without nulls, and with `positions`."""
    config, found = _read(folder / "config.json"), _read(folder / "generation_config.json")
    decoder: dict[str, Any] = next(
        (config[name] for name in _DECODER_CONFIGS if isinstance(config.get(name), dict)), {}
    )
    inner = {name: value for name, value in decoder.items() if value is not None}
    if not found:
        found = inner | config
    found.pop("positions", None)  # not a setting of transformers
    positions = [part[name] for part in (inner, config) for name in _POSITIONS if isinstance(part.get(name), int)]
    return found | ({"positions": positions[0]} if positions else {})


def checked_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with lists as tuples, and defaults in the place of None.

    Raises:
        UsageError: a setting that does not exist, or is not supported.
    """
    defaults = {field.name: field.default for field in fields(GenerationSettings)}
    made = {}
    for name, value in values.items():
        if name in _UNSUPPORTED and value == _UNSUPPORTED[name]:
            continue
        if name in _UNSUPPORTED:
            raise UsageError(f"onnxport does not support {name}.", hint=f"Leave {name} out.")
        if name not in defaults:
            raise UsageError(f"There is no setting {name!r}.", hint=did_you_mean(name, list(defaults)))
        if name == "sequence_bias" and isinstance(value, Mapping):
            value = list(value.items())
        if name in ("eos_token_id", "forced_eos_token_id", "stop_strings") and isinstance(value, (int, str)):
            value = (value,)
        made[name] = defaults[name] if value is None else _frozen(value)
    return made


def check_names(settings: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Check the settings that a pipeline is made with.

    Args:
        settings: of the generation, and of the pipeline.
        others: names that are not of the generation.

    Raises:
        UsageError: a setting that does not exist, or is not supported.
    """
    further = settings.get("generate_kwargs") or {}
    known = {*others, "generate_kwargs"}
    checked_settings({name: value for name, value in {**settings, **further}.items() if name not in known})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _read(path: Path) -> dict[str, Any]:
    return {k: v for k, v in (read_object_if_present(path)).items() if v is not None}
