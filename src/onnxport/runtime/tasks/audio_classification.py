"""Labels of sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxport.runtime.preprocessing.sounds.load import load_sound
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.audio_pipeline import AudioPipeline
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.scores import ranked, scored


@dataclass(frozen=True)
class SoundSettings:
    """Arguments of the call.

    Attributes:
        top_k: labels of the answer; None for all.
        function_to_apply: "softmax", "sigmoid" or "none"; None chooses by the model's problem type.
    """

    top_k: int | None = 5
    function_to_apply: str | None = None


class AudioClassification(AudioPipeline):
    """`pipeline("sound.wav")` returns the best labels, [{"score": float, "label": str}].

    A sound is a path, bytes of a file, an array at the model's sampling rate, or {"raw": array, "sampling_rate": int}.
    Settings are those of `SoundSettings`.
    """

    Settings = SoundSettings

    def prepare(self, item: Any, settings: SoundSettings) -> Prepared:
        extractor = self.feature_extractor
        return Prepared([extractor(load_sound(item, extractor.sampling_rate))])

    def answer(self, outputs: Sequence[Row], context: Any, settings: SoundSettings) -> list[dict[str, Any]]:
        if settings.top_k is not None:
            at_least(settings.top_k, 1, "top_k")
        config = self.model.config
        scores = scored(outputs[0]["logits"], settings.function_to_apply, config, one_label=False)
        found = ranked(scores, config, settings.top_k)
        return [{"score": one["score"], "label": one["label"]} for one in found]
