"""Mel spectrograms as in `audio_utils.py` of transformers: the same steps, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError

Floats = NDArray[np.float64]
Scale = Literal["slaney", "kaldi"]
# Slaney's scale is linear below 1000 Hz and logarithmic above.
_KNEE_HERTZ, _KNEE_MEL = 1000.0, 15.0


@dataclass(frozen=True)
class Frames:
    """How a sound is cut into frames.

    Attributes:
        window: (samples of a frame,) weights.
        hop: samples from one frame to the next.
        fft_length: points of the Fourier transform.
        center: frames are centered: the sound is mirrored at both ends.
        preemphasis: share of the sample before that is subtracted; None for none.
        remove_offset: subtract the mean of each frame.
    """

    window: Floats
    hop: int
    fft_length: int
    center: bool = True
    preemphasis: float | None = None
    remove_offset: bool = False


def spectrogram(samples: NDArray[Any], frames: Frames, filters: Floats, floor: float) -> Floats:
    """The power in each mel band, (bands, frames), at least `floor`.

    Args:
        samples: (samples,).
        frames: how to cut them.
        filters: (frequencies, bands) from `mel_filters`.
        floor: the smallest value.

    Raises:
        UsageError: the sound is shorter than a frame.
    """
    length = len(frames.window)
    if frames.center:
        if len(samples) <= length // 2:
            raise _too_short(len(samples), length)
        samples = np.pad(samples, length // 2, mode="reflect")
    if len(samples) < length:
        raise _too_short(len(samples), length)
    cut = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), length)[:: frames.hop].copy()
    if frames.remove_offset:
        cut -= cut.mean(1, keepdims=True)
    if frames.preemphasis is not None:
        cut[:, 1:] -= frames.preemphasis * cut[:, :-1]
        cut[:, 0] *= 1 - frames.preemphasis
    spectrum = np.fft.rfft(cut * frames.window, frames.fft_length).astype(np.complex64)
    power = np.abs(spectrum, dtype=np.float64) ** 2.0
    made: Floats = np.maximum(floor, filters.T @ power.T)
    return made


def window(length: int, *, periodic: bool) -> Floats:
    """Hann's window."""
    return np.hanning(length + 1)[:-1] if periodic else np.hanning(length)


def mel_filters(frequencies: int, bands: int, lowest: float, highest: float, rate: int, scale: Scale) -> Floats:
    """Triangular filters, (frequencies, bands).

    Args:
        frequencies: bins of the Fourier transform.
        bands: number of filters.
        lowest, highest: in Hz.
        rate: samples a second.
        scale: "slaney": triangles over Hz, of equal energy; "kaldi": triangles over mels.
    """
    mels = np.linspace(_to_mel(np.array(lowest), scale), _to_mel(np.array(highest), scale), bands + 2)
    if scale == "kaldi":
        edges = mels
        bins = _to_mel(np.arange(frequencies, dtype=np.float64) * (rate / ((frequencies - 1) * 2)), scale)
    else:
        edges = _to_hertz(mels)
        bins = np.linspace(0, rate // 2, frequencies)
    slopes = edges[None] - bins[:, None]
    steps = np.diff(edges)
    made: Floats = np.maximum(0.0, np.minimum(-slopes[:, :-2] / steps[:-1], slopes[:, 2:] / steps[1:]))
    if scale == "slaney":
        made *= (2.0 / (edges[2:] - edges[:-2]))[None]
    return made


def _to_mel(hertz: Floats, scale: Scale) -> Floats:
    if scale == "kaldi":
        return np.asarray(1127.0 * np.log(1.0 + hertz / 700.0))
    above = _KNEE_MEL + np.log(np.maximum(hertz, _KNEE_HERTZ) / _KNEE_HERTZ) * (27.0 / np.log(6.4))
    return np.where(hertz >= _KNEE_HERTZ, above, 3.0 * hertz / 200.0)


def _to_hertz(mels: Floats) -> Floats:
    above = _KNEE_HERTZ * np.exp(np.log(6.4) / 27.0 * (mels - _KNEE_MEL))
    return np.where(mels >= _KNEE_MEL, above, 200.0 * mels / 3.0)


def _too_short(samples: int, needed: int) -> UsageError:
    return UsageError(f"The sound has {samples} samples; a frame takes {needed}.", hint="Give a longer sound.")
