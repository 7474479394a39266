"""Recordings: labels for every moment, and a vector for the voice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.preprocessing.sounds.load import load_sound
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.audio_pipeline import AudioPipeline
from onnxport.runtime.tasks.base import Prepared
from onnxport.runtime.tasks.scores import sigmoid


class _Recordings(AudioPipeline):
    """A sound is a path, bytes of a file, an array at the model's sampling rate, or {"raw": array, ...}."""

    def prepare(self, item: Any, settings: Any) -> Prepared:
        return Prepared([self.feature_extractor(load_sound(item, self.feature_extractor.sampling_rate))])


class AudioFrames(_Recordings):
    """`pipeline("speech.wav")` returns the probability of every label in every frame, (frames, labels) float32.

    The labels are `pipeline.model.config.labels`; each probability is a sigmoid, so several can be there at once.
    """

    def answer(self, outputs: Sequence[Row], context: Any, settings: Any) -> NDArray[np.float32]:
        return sigmoid(np.asarray(outputs[0]["logits"], np.float32))


class VoiceVector(_Recordings):
    """`pipeline("speech.wav")` returns the vector of a voice, (width,) float32; of one person the cosine is near 1."""

    def answer(self, outputs: Sequence[Row], context: Any, settings: Any) -> NDArray[np.float32]:
        return np.asarray(outputs[0]["embeddings"], np.float32)
