"""The words of a recording, by a CTC model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.sounds.ctc import read_ctc_vocabulary
from onnxport.runtime.preprocessing.sounds.load import load_sound
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.audio_pipeline import AudioPipeline
from onnxport.runtime.tasks.base import Prepared
from onnxport.runtime.tasks.model import TaskModel

_TIMESTAMPS = (None, False, "char", "word")


@dataclass(frozen=True)
class SpeechSettings:
    """Arguments of the call.

    Attributes:
        chunk_length_s: a long recording is cut into parts of this many seconds; None and 0 do not cut.
        stride_length_s: seconds by which a part overlaps its neighbours, one number or (before, after); None is a
            sixth of a part.
        return_timestamps: "char" or "word": the answer also has the seconds of each.
    """

    chunk_length_s: float | None = None
    stride_length_s: float | Sequence[float] | None = None
    return_timestamps: str | bool | None = None


@dataclass(frozen=True)
class _Kept:
    """Of a part, the frames that are kept: those between its overlaps."""

    first: int
    last: int | None


class SpeechRecognition(AudioPipeline):
    """`pipeline("speech.wav")` returns {"text": str}.

    With `return_timestamps` also "chunks", [{"text": str, "timestamp": (start, end)}] in seconds. A sound is a path,
    bytes of a file, an array at the model's sampling rate, or {"raw": array, "sampling_rate": int}. Settings are those
    of `SpeechSettings`.
    """

    Settings = SpeechSettings

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        self.vocabulary = read_ctc_vocabulary(model.folder.path)
        super().__init__(model, task, **settings)
        self.samples_a_frame = _samples_a_frame(model)

    def prepare(self, item: Any, settings: SpeechSettings) -> Prepared:
        samples = load_sound(item, self.feature_extractor.sampling_rate)
        if not settings.chunk_length_s:
            return Prepared([self.feature_extractor(samples)], [_Kept(0, None)])
        parts = list(self._parts(samples, settings))
        return Prepared([self.feature_extractor(part) for part, _ in parts], [kept for _, kept in parts])

    def answer(self, outputs: Sequence[Row], context: Sequence[_Kept], settings: SpeechSettings) -> dict[str, Any]:
        if settings.return_timestamps not in _TIMESTAMPS:
            raise UsageError(
                f"return_timestamps={settings.return_timestamps!r} is not known.", hint='return_timestamps="word"'
            )
        best = [
            output["logits"].argmax(-1)[kept.first : kept.last] for output, kept in zip(outputs, context, strict=True)
        ]
        characters = self.vocabulary.characters(np.concatenate(best).tolist())
        found: dict[str, Any] = {"text": self.vocabulary.text(characters)}
        if settings.return_timestamps:
            pieces = self.vocabulary.words(characters) if settings.return_timestamps == "word" else characters
            seconds = self.samples_a_frame / self.feature_extractor.sampling_rate
            found["chunks"] = [
                {"text": piece.text, "timestamp": (piece.first * seconds, piece.last * seconds)} for piece in pieces
            ]
        return found

    def _parts(self, samples: Any, settings: SpeechSettings) -> Iterator[tuple[Any, _Kept]]:
        """Parts of a recording that overlap, each with the frames that are kept."""
        length, before, after = self._part_sizes(settings)
        for start in range(0, len(samples), length - before - after):
            part = samples[start : start + length]
            is_last = start + length >= len(samples)
            left, right = 0 if start == 0 else before, 0 if is_last else after
            frames = round(len(part) / self.samples_a_frame)
            if len(part) > left:
                yield part, _Kept(round(left / len(part) * frames), frames - round(right / len(part) * frames))
            if is_last:
                return

    def _part_sizes(self, settings: SpeechSettings) -> tuple[int, int, int]:
        """Samples of a part, and of its overlaps before and after, as whole frames.

        Raises:
            UsageError: the overlaps leave nothing.
        """
        assert settings.chunk_length_s is not None
        stride = settings.chunk_length_s / 6 if settings.stride_length_s is None else settings.stride_length_s
        both = (stride, stride) if isinstance(stride, (int, float)) else tuple(stride)
        rate, frame = self.feature_extractor.sampling_rate, self.samples_a_frame
        length, before, after = (round(seconds * rate / frame) * frame for seconds in (settings.chunk_length_s, *both))
        if length <= before + after:
            raise UsageError(
                f"chunk_length_s={settings.chunk_length_s} leaves nothing between overlaps of {both} s.",
                hint="Raise chunk_length_s or lower stride_length_s.",
            )
        return length, before, after


def _samples_a_frame(model: TaskModel) -> int:
    """Samples from one frame of the logits to the next: the product of the strides of the convolutions."""
    strides = model.config.values.get("conv_stride")
    # 320 samples are the default of wav2vec2 and its kin.
    return int(np.prod(strides)) if isinstance(strides, list) and strides else 320
