"""Recordings for Whisper: longer than one window, and with timestamps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.decoding.settings import GenerationSettings
from onnxport.runtime.decoding.transcript import Stride, Transcript
from onnxport.runtime.preprocessing.sounds.extractors import WhisperSpectrogram
from onnxport.runtime.prompts.whisper import SpeechOptions
from onnxport.runtime.sequence_generation import SequenceGenerator
from onnxport.runtime.tasks.whisper_fallback import Reading

Samples = NDArray[np.float32]
_STEPS, _FRAMES = 1500, 2  # steps of the timestamps in a window; frames of the spectrogram a step
_SHARED = 6  # a window shares a sixth of its length with its neighbour, as in transformers' pipeline


@dataclass(frozen=True)
class Windows:
    """How a recording is cut, in samples; `length` None does not cut it."""

    length: int | None = None
    left: int = 0
    right: int = 0

    def of(self, samples: Samples) -> Iterator[tuple[Samples, Stride | None]]:
        """The windows of a recording, with what they share; lengths of the strides are in samples."""
        if self.length is None:
            yield samples, None
            return
        for start in range(0, len(samples), self.length - self.left - self.right):
            last = start + self.length >= len(samples)
            window = samples[start : start + self.length]
            left = self.left if start else 0
            if len(window) > left:
                yield window, Stride(len(window), left, 0 if last else self.right)
            if last:
                return


def windows_for(extractor: WhisperSpectrogram, chunk: float | None, stride: Any) -> Windows:
    """Windows of `chunk` seconds; without it, none.

    Raises:
        UsageError: a window that is longer than the model takes, or shorter than what it shares.
    """
    if not chunk:
        return Windows()
    longest, rate = extractor.longest or 0, extractor.sampling_rate
    length = round(chunk * rate)
    if length > longest:
        raise UsageError(
            f"chunk_length_s={chunk} is longer than the model takes: {longest / rate:g} s.",
            hint=f"chunk_length_s={longest / rate:g}",
        )
    shared = chunk / _SHARED if stride is None else stride
    sides = list(shared) if isinstance(shared, (list, tuple)) else [shared, shared]
    left, right = (round(side * rate) for side in sides)
    if length <= left + right:
        raise UsageError(f"stride_length_s={stride} leaves nothing of a window.", hint="Give a smaller one.")
    return Windows(length, left, right)


def is_whisper(folder: Path) -> bool:
    """Whether a folder's answers may have timestamps."""
    return read_object_if_present(folder / "config.json").get("model_type") == "whisper"


def check_times(asked: Any) -> None:
    """Check `return_timestamps`.

    Raises:
        UsageError: times of words, which need the attention of the decoder, or another value than True and False.
    """
    if asked == "word":
        raise UsageError(
            "Times of words are computed from the decoder's attention to the sound, which the graphs do not return.",
            hint="return_timestamps=True gives the times of segments.",
        )
    if asked not in (None, False, True):
        raise UsageError(f"return_timestamps={asked!r} is not known.", hint="return_timestamps=True")


def with_timestamps(generator: SequenceGenerator, settings: GenerationSettings) -> GenerationSettings:
    """The settings with Whisper's rules for timestamps.

    Raises:
        UsageError: generation_config.json does not say which tokens these are.
    """
    token = generator.generation_config.get("no_timestamps_token_id")
    if not isinstance(token, int):
        raise UsageError(
            "generation_config.json has no no_timestamps_token_id, so timestamps cannot be written.",
            hint="Leave return_timestamps out.",
        )
    return settings.changed(first_timestamp_token_id=token + 1)


def transcribe(
    generator: SequenceGenerator,
    extractor: WhisperSpectrogram,
    windows: Iterator[tuple[Samples, Stride | None]],
    reading: Reading,
    speech: SpeechOptions,
) -> Transcript:
    """The words of a recording, window by window.

    Raises:
        UsageError: several answers are asked for, or there is no room for one.
    """
    if reading.attempts[0].num_return_sequences > 1:
        raise UsageError("A recording with timestamps or windows has one text.", hint="num_return_sequences=1")
    rate, longest = extractor.sampling_rate, extractor.longest or 0
    config: Mapping[str, Any] = read_object_if_present(generator.folder / "config.json")
    steps = int(config.get("max_source_positions") or _STEPS)
    reader = _Reader(generator, reading, speech, steps * _FRAMES, _first_time(generator))
    tokenizer = generator.texts.tokenizer
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    transcript = Transcript(special, reader.first_time, longest / rate / steps, generator.texts.decode)
    for samples, stride in windows:
        whole = len(samples) > longest
        features = extractor.of_any_length(samples) if whole else extractor(samples)["input_features"]
        seconds = None if stride is None else Stride(stride.length / rate, stride.left / rate, stride.right / rate)
        transcript.add(reader.tokens(features), seconds)
    transcript.finish()
    return transcript


def _first_time(generator: SequenceGenerator) -> int:
    """The token of 0 s; beyond all tokens where there is none."""
    tokenizer = generator.texts.tokenizer
    none = generator.generation_config.get("no_timestamps_token_id", tokenizer.token_to_id("<|notimestamps|>"))
    return none + 1 if isinstance(none, int) else tokenizer.get_vocab_size()


@dataclass(frozen=True)
class _Reader:
    """Reads spectrograms of any length, as `generate` of transformers' Whisper.

    Each call begins where the last segment of the one before ended (arXiv 2212.04356, section 3.8).

    Attributes:
        reading: how the first segment is read.
        frames: that the encoder takes.
        first_time: the token of 0 s.
    """

    generator: SequenceGenerator
    reading: Reading
    speech: SpeechOptions
    frames: int
    first_time: int

    def tokens(self, features: NDArray[np.float32]) -> list[int]:
        """The tokens of all segments of a spectrogram (bands, frames)."""
        made: list[int] = []
        first, place, total, reading = None, 0, features.shape[1], self.reading
        while place < total:
            part = features[:, place : place + self.frames]
            padded = np.pad(part, ((0, 0), (0, self.frames - part.shape[1])))
            prompt, settings = self.generator.prompt(
                {"input_features": padded[None]}, reading.attempts[0], first, self.speech
            )
            first = prompt.ids  # the language is that of the beginning
            answer, reading = reading.read(self.generator.decoder, prompt, settings.max_length)
            if answer is None:
                place += part.shape[1]
                continue
            kept, seen = self._segments(answer[:-1] if answer[-1:] == [*settings.eos_token_id[:1]] else answer)
            made += kept
            place += part.shape[1] if seen is None or seen <= 0 else seen
        return made

    def _segments(self, answer: list[int]) -> tuple[list[int], int | None]:
        """The tokens up to the end of the last whole segment, and the frames up to there; None for all frames.

        A segment ends where one timestamp follows another.
        """
        is_time = [token >= self.first_time for token in answer]
        ends = [place + 1 for place in range(len(answer) - 1) if is_time[place] and is_time[place + 1]]
        if not ends or is_time[-2:] == [False, True]:
            return answer, None
        last = ends[-1] + 1
        return answer[:last], (answer[last - 2] - self.first_time) * _FRAMES
