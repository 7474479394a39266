"""Sounds as arrays, by the class and the settings in preprocessor_config.json; numpy only.

The numbers are those of transformers' feature extractors of the same name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import FolderError, UnknownPreprocessingError, UsageError
from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.preprocessing.sounds.spectrogram import Frames, mel_filters, spectrogram, window

Samples = NDArray[np.float32]
_USUAL_RATE = 16_000


class FeatureExtractor(ABC):
    """Prepares sounds.

    Args:
        settings: of preprocessor_config.json.

    Attributes:
        name: of the class in transformers.
        sampling_rate: samples a second that the model takes.
        longest: most samples of one sound; None for no limit.
    """

    name = ""
    longest: int | None = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.sampling_rate = int(settings.get("sampling_rate", _USUAL_RATE))

    @abstractmethod
    def __call__(self, samples: Samples) -> dict[str, NDArray[Any]]:
        """The arrays of one sound, without the axis of the batch.

        Args:
            samples: (samples,) float32 at `sampling_rate`.

        Raises:
            UsageError: the sound is too short or too long.
        """

    def get(self, name: str, default: Any) -> Any:
        """A setting; the default of the class where the file is silent."""
        value = self.settings.get(name)
        return default if value is None else value


class Waveform(FeatureExtractor):
    """`input_values` (samples,): the sound itself, with mean 0 and variance 1 if `do_normalize`."""

    name = "Wav2Vec2FeatureExtractor"
    normalizes = True

    def __call__(self, samples: Samples) -> dict[str, NDArray[Any]]:
        if self.get("do_normalize", self.normalizes):
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        values = np.asarray(samples, np.float32)
        return {"input_values": values, "attention_mask": np.ones(len(values), np.int64)}


class SpeechT5Waveform(Waveform):
    """As `Waveform`, without normalization by default."""

    name = "SpeechT5FeatureExtractor"
    normalizes = False


class WhisperSpectrogram(FeatureExtractor):
    """`input_features` (bands, frames): the logarithm of a mel spectrogram, of a fixed length."""

    name = "WhisperFeatureExtractor"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        points = int(self.get("n_fft", 400))
        self.hop = int(self.get("hop_length", 160))
        self.longest = int(self.get("chunk_length", 30)) * self.sampling_rate
        self._frames = Frames(window(points, periodic=True), self.hop, points)
        bands = int(self.get("feature_size", 80))
        self._filters = mel_filters(1 + points // 2, bands, 0.0, 8000.0, self.sampling_rate, "slaney")

    def __call__(self, samples: Samples) -> dict[str, NDArray[Any]]:
        assert self.longest is not None
        if len(samples) > self.longest:
            rate = self.sampling_rate
            raise UsageError(
                f"The sound has {len(samples) / rate:.1f} s; the model takes {self.longest / rate:.0f} s at a time.",
                hint="Cut it into shorter ones.",
            )
        padded = np.full(self.longest, self.get("padding_value", 0.0), np.float32)
        padded[: len(samples)] = samples
        features = self.of_any_length(padded)
        mask = (np.arange(self.longest) < len(samples)).astype(np.int64)[:: self.hop][: features.shape[1]]
        return {"input_features": features, "attention_mask": mask}

    def of_any_length(self, samples: Samples) -> NDArray[np.float32]:
        """The spectrogram (bands, frames) of a whole recording, without padding."""
        power = np.log10(spectrogram(samples, self._frames, self._filters, 1e-10)).astype(np.float32)[:, :-1]
        power = np.maximum(power, power.max() - 8.0)
        made: NDArray[np.float32] = ((power + 4.0) / 4.0).astype(np.float32)
        return made


class PatchSpectrogram(FeatureExtractor):
    """`input_values` (frames, bands): the logarithm of a mel spectrogram, cut or padded to `max_length` frames."""

    name = "ASTFeatureExtractor"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self._frames = Frames(window(400, periodic=False), 160, 512, center=False, preemphasis=0.97, remove_offset=True)
        bands = int(self.get("num_mel_bins", 128))
        self._filters = mel_filters(257, bands, 20, self.sampling_rate // 2, self.sampling_rate, "kaldi")

    def __call__(self, samples: Samples) -> dict[str, NDArray[Any]]:
        power = np.log(spectrogram(samples, self._frames, self._filters, 1.192092955078125e-07)).astype(np.float32).T
        length = int(self.get("max_length", 1024))
        values = np.zeros((length, power.shape[1]), np.float32)
        values[: len(power)] = power[:length]
        if self.get("do_normalize", True):
            values = (values - self.get("mean", -4.2677393)) / (self.get("std", 4.5689974) * 2)
        return {"input_values": values.astype(np.float32)}


class _KaldiBands(FeatureExtractor):
    """The logarithm of a mel spectrogram of 16-bit samples, as Kaldi computes it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        weights = window(400, periodic=False) ** 0.85  # Povey's
        self._frames = Frames(weights, 160, 512, center=False, preemphasis=0.97, remove_offset=True)
        bands = int(self.get("num_mel_bins", 80))
        self._filters = mel_filters(257, bands, 20, self.sampling_rate // 2, self.sampling_rate, "kaldi")

    def _bands(self, samples: Samples) -> NDArray[np.float32]:
        """(frames, bands)."""
        power = spectrogram(np.asarray(samples * 2**15), self._frames, self._filters, 1.192092955078125e-07)
        return np.log(power).astype(np.float32).T


class SpeechToTextBands(_KaldiBands):
    """`input_features` (frames, bands), each band with mean 0 and variance 1."""

    name = "Speech2TextFeatureExtractor"

    def __call__(self, samples: Samples) -> dict[str, NDArray[Any]]:
        # In the order of memory in which transformers adds, which counts for a steady tone: its variance is next to 0.
        values = np.ascontiguousarray(self._bands(samples))
        if self.get("do_ceptral_normalize", True):
            if self.get("normalize_means", True):
                values = values - values.mean(0)
            if self.get("normalize_vars", True):
                values = values / values.std(0)
        return {"input_features": values.astype(np.float32), "attention_mask": np.ones(len(values), np.int64)}


class StackedBands(_KaldiBands):
    """`input_features` (frames / 2, 2 * bands): normalized bands of two frames at a time (Wav2Vec2-BERT)."""

    name = "SeamlessM4TFeatureExtractor"

    def __call__(self, samples: Samples) -> dict[str, NDArray[Any]]:
        values, stride = self._bands(samples), int(self.get("stride", 2))
        if len(values) < 2:
            raise UsageError(f"The sound has {len(samples)} samples, which is one frame.", hint="Give a longer sound.")
        values = (values - values.mean(0)) / np.sqrt(values.var(0, ddof=1) + 1e-7)
        mask = np.ones(len(values), np.int64)
        if len(values) % 2:
            values = np.pad(values, ((0, 1), (0, 0)), constant_values=self.get("padding_value", 0.0))
            mask = np.pad(mask, (0, 1))
        kept = len(values) - len(values) % stride
        stacked = values[:kept].reshape(kept // stride, -1)
        return {"input_features": stacked.astype(np.float32), "attention_mask": mask[:kept][1::stride]}


EXTRACTORS: dict[str, type[FeatureExtractor]] = {
    cls.name: cls
    for cls in (Waveform, SpeechT5Waveform, WhisperSpectrogram, PatchSpectrogram, SpeechToTextBands, StackedBands)
}


def read_feature_extractor(folder: Path) -> FeatureExtractor:
    """The feature extractor of a folder.

    Raises:
        FolderError: the folder has none.
        UnknownPreprocessingError: a class that is not known here.
    """
    settings = _settings(folder)
    name = settings.get("feature_extractor_type", Waveform.name)
    if name not in EXTRACTORS:
        raise UnknownPreprocessingError(f"The feature extractor {name}")
    return EXTRACTORS[name](settings)


def _settings(folder: Path) -> dict[str, Any]:
    """The settings in preprocessor_config.json, or in processor_config.json, which has those of several processors."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = folder / name
        found = read_object_if_present(file)
        inner = found.get("feature_extractor")
        settings = inner if isinstance(inner, dict) else found
        if {"feature_extractor_type", "sampling_rate"} & set(settings):
            return dict(settings)
    raise FolderError(
        f"{folder} has no feature extractor: preprocessor_config.json is missing or has no sampling rate.",
        hint="Copy preprocessor_config.json of the checkpoint into the folder.",
    )
