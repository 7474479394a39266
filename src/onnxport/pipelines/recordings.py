"""Recordings: labels for every moment, and a vector for the voice."""

from __future__ import annotations

from typing import Any

from transformers import AudioClassificationPipeline


class _RecordingPipeline(AudioClassificationPipeline):
    """What the two have in common with labels of sounds: how a sound is read."""

    def check_model_type(self, supported_models: Any) -> None:
        """Its own models have other heads."""

    def _sanitize_parameters(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {}


class AudioFramesPipeline(_RecordingPipeline):
    """`nlp(sound)` gives the probability of every label in every frame: (frames, labels) float32.

    A sound is what transformers' audio classification takes. A label is there by itself, whatever the others are:
    probabilities are sigmoids.
    """

    def postprocess(self, model_outputs: Any, **_: Any) -> Any:
        return model_outputs["logits"][0].float().sigmoid().numpy()


class VoiceVectorPipeline(_RecordingPipeline):
    """`nlp(sound)` gives the vector of a voice: (width,) float32. Two of one person have a cosine near 1."""

    def postprocess(self, model_outputs: Any, **_: Any) -> Any:
        return model_outputs["embeddings"][0].float().numpy()
