"""Whisper reads a segment again, at a higher temperature, where an answer looks wrong, and leaves out silence.

Source: `generate_with_fallback` of transformers 5.23 (models/whisper/generation_whisper.py); arXiv 2212.04356,
section 4.5.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.logits_processors import apply, logits_processors_for
from onnxport.runtime.decoding.prefill import Prompt, prefill
from onnxport.runtime.decoding.sampling import log_softmax, softmax
from onnxport.runtime.decoding.settings import GenerationSettings
from onnxport.runtime.generation import generate

_THRESHOLDS = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")
NAMES = (*_THRESHOLDS, "temperature", "condition_on_prev_tokens")


@dataclass(frozen=True)
class Reading:
    """How a segment is read.

    Attributes:
        attempts: settings, in the order in which they are tried; the last one's answer stands.
        vocabulary: tokens that the model knows.
        silence: the token that says that nobody speaks.
        compression_ratio_threshold: the next attempt, if the tokens can be compressed further than this (bytes before
            and after): an answer that repeats itself.
        logprob_threshold: the next attempt, if the mean log-probability of the tokens is below.
        no_speech_threshold: no answer at all, if it is, and the probability that nobody speaks is above this.
    """

    attempts: tuple[GenerationSettings, ...]
    vocabulary: int = 0
    silence: int = 0
    compression_ratio_threshold: float | None = None
    logprob_threshold: float | None = None
    no_speech_threshold: float | None = None

    def greedy(self) -> Reading:
        """The same without beams: transformers searches with beams until a segment was first drawn."""
        return replace(self, attempts=tuple(one.changed(num_beams=1) for one in self.attempts))

    def read(self, decoder: Decoder, prompt: Prompt, longest: int | None) -> tuple[list[int] | None, Reading]:
        """The tokens of a segment, and how the next one is read; None where nobody speaks.

        Args:
            prompt: of one recording.
            longest: `max_length` of the answer.
        """
        going_on = self
        for number in range(len(self.attempts)):
            chosen = going_on.attempts[number].changed(max_length=longest)
            going_on = going_on.greedy() if chosen.do_sample else going_on
            [answer] = generate(decoder, prompt, chosen)
            unlikely = self._is_unlikely(decoder, prompt, chosen, answer)
            if unlikely and self._is_silent(decoder, prompt):
                return None, going_on
            if not unlikely and not self._repeats_itself(answer):
                break
        return answer, going_on

    def _repeats_itself(self, answer: Sequence[int]) -> bool:
        if self.compression_ratio_threshold is None:
            return False
        size = int(math.log2(self.vocabulary) / 8) + 1
        content = b"".join(token.to_bytes(size, "little") for token in answer)
        return len(content) / len(zlib.compress(content)) > self.compression_ratio_threshold

    def _is_unlikely(
        self, decoder: Decoder, prompt: Prompt, settings: GenerationSettings, answer: Sequence[int]
    ) -> bool:
        if self.logprob_threshold is None:
            return False
        return mean_log_probability(decoder, prompt, settings, answer) < self.logprob_threshold

    def _is_silent(self, decoder: Decoder, prompt: Prompt) -> bool:
        if self.no_speech_threshold is None:
            return False
        start = replace(prompt, ids=prompt.ids[:, :1])
        return bool(softmax(prefill(decoder, start)[1])[0, self.silence] > self.no_speech_threshold)


def mean_log_probability(
    decoder: Decoder, prompt: Prompt, settings: GenerationSettings, answer: Sequence[int]
) -> float:
    """The mean log-probability of the tokens of an answer; they run through the decoder once more."""
    processors = logits_processors_for(settings, prompt.context())
    scale = np.float32(settings.temperature if settings.do_sample else 1)
    progress, logits = prefill(decoder, prompt)
    seen, total = prompt.ids, np.float32(0)
    for token in answer:
        if seen.shape[1] > prompt.ids.shape[1]:
            logits = decoder.step(progress, seen[:, -1:])
        total += log_softmax(apply(processors, seen, logits) * scale)[0, token]
        seen = np.concatenate([seen, [[token]]], 1)
    return float(total / np.float32(len(answer)))


def reading_of(
    settings: Callable[..., GenerationSettings],
    given: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    vocabulary: int,
) -> Reading:
    """How a segment is read, from the arguments of a call.

    Args:
        settings: makes the settings of an attempt of the arguments of the generation.
        given: the arguments; those of `NAMES` are used here.
        generation_config: has thresholds that the call does not give.
        vocabulary: tokens that the model knows.

    Raises:
        UsageError: a value that cannot be used.
    """
    rest = {name: value for name, value in given.items() if name not in NAMES}
    limits = {name: given.get(name, generation_config.get(name)) for name in _THRESHOLDS}
    for name, limit in limits.items():
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float))):
            raise UsageError(f"{name} is {limit!r}, which is not a number.", hint=f"Leave {name} out.")
    if given.get("condition_on_prev_tokens", generation_config.get("condition_on_prev_tokens")):
        raise UsageError(
            "condition_on_prev_tokens is not supported: each segment is read without the text before it.",
            hint="condition_on_prev_tokens=False",
        )
    if limits["no_speech_threshold"] is not None and limits["logprob_threshold"] is None:
        raise UsageError("no_speech_threshold counts with logprob_threshold alone.", hint="logprob_threshold=-1.0")
    no_times = generation_config.get("no_timestamps_token_id")
    if limits["no_speech_threshold"] is not None and not isinstance(no_times, int):
        raise UsageError(
            "generation_config.json has no no_timestamps_token_id, before which stands the token of silence.",
            hint="Leave no_speech_threshold out.",
        )
    attempts = tuple(settings(**{**rest, **_drawing(one)}) for one in _temperatures(given.get("temperature")))
    return Reading(attempts, vocabulary, no_times - 1 if isinstance(no_times, int) else 0, **limits)


def _temperatures(given: Any) -> Sequence[float]:
    asked = list(given) if isinstance(given, (list, tuple)) else [given or 0.0]
    if not asked or any(isinstance(one, bool) or not isinstance(one, (int, float)) or one < 0 for one in asked):
        raise UsageError(
            f"temperature is {given!r}; it must be a number from 0 on, or several.", hint="temperature=(0.0, 0.2, 0.4)"
        )
    return asked


def _drawing(temperature: float) -> dict[str, Any]:
    """The settings of an attempt: at the temperature 0 the likeliest tokens, else draws."""
    return {"do_sample": True, "temperature": temperature, "num_beams": 1} if temperature else {}
