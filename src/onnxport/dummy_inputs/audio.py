"""Audio: waveforms of an exact number of samples, passed through the feature extractor."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes, as_arrays

_SAMPLES = (4001, 5003, 8009)


class AudioInputGenerator:
    """Makes rows of audio.

    The dimension is the number of audio samples. If the feature extractor makes frames, the axis `num_frames` depends
    on it. If it pads everything to a static length, no input axis does.

    Args:
        extractor: the feature extractor, or None for raw waveforms.
        config: config of the model.
        accepts: parameter names of the model's forward, or None for all.
        samples: lengths to probe, the base first; None for the usual short ones.
    """

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(
        self,
        extractor: Any,
        config: Any,
        accepts: frozenset[str] | None = None,
        samples: tuple[int, ...] | None = None,
    ) -> None:
        self.extractor, self.config, self.accepts = extractor, config, accepts
        self.rate = int(getattr(extractor, "sampling_rate", None) or 16000)
        base, *rest = samples or _SAMPLES
        others = tuple(rest)
        self.dims: tuple[DynamicDim, ...] = (
            DynamicDim("batch_size", 2, (3, 5)),
            DynamicDim("num_samples", base, others, None, "num_frames"),
        )
        # Whisper's default padding is to a static length, and its model accepts no other length.
        own = inspect.signature(type(extractor).__call__).parameters.get("padding") if extractor is not None else None
        self._padding: Any = True
        if own is not None and isinstance(own.default, str):
            self.dims = (self.dims[0], replace(self.dims[1], derived_axis_index=self._frames_axis()))
            self._padding = own.default
        self.can_pad = "attention_mask" in self.make({"batch_size": 1, "num_samples": 4001})

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        rows, samples = sizes["batch_size"], sizes["num_samples"]
        rng = np.random.default_rng([seed, rows, samples])
        lengths = [samples if row == 0 or not padded else samples * 3 // 4 for row in range(rows)]
        sounds = [random_sound(length, self.rate, rng) for length in lengths]
        if self.extractor is None:
            return {"input_values": np.stack([np.resize(sound, samples) for sound in sounds])}
        encoded = self.extractor(sounds, sampling_rate=self.rate, return_tensors="np", padding=self._padding)
        return as_arrays(encoded, self.accepts)

    def _frames_axis(self) -> int:
        """Return the axis of the first input that depends on the audio's length: 1 or 2 of three."""
        made = [next(iter(self.make({"batch_size": 1, "num_samples": size}).values())).shape for size in (4001, 8009)]
        return next((axis for axis, (x, y) in enumerate(zip(*made, strict=True)) if x != y), 1)


def random_sound(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return a few gliding tones and noise.

    Args:
        samples: number of samples.
        rate: samples per second.
        rng: random generator.

    Returns:
        float32 (samples,) in [-1, 1].
    """
    time = np.arange(samples) / rate
    tones = sum(np.sin(2 * np.pi * rng.uniform(80, 2000) * time * (1 + rng.uniform(0, 0.5) * time)) for _ in range(3))
    return ((tones / 4 + rng.normal(0, 0.05, samples)).clip(-1, 1)).astype(np.float32)
