"""Sounds from files, bytes and arrays, at the sampling rate of a model."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.sounds.wav import read_wav, resample

_KEYS = {"raw", "array", "sampling_rate", "path"}  # the last is in the rows of `datasets`
_HINT = '{"raw": samples, "sampling_rate": 16000}'


def load_sound(source: Any, rate: int) -> NDArray[np.float32]:
    """Samples of one channel.

    Args:
        source: the path of a WAV file, or of another sound file where `soundfile` is installed; the bytes of such a
            file; an array (samples,) or (channels, samples) at `rate`; or {"raw" or "array": such an array,
            "sampling_rate": samples a second}.
        rate: samples a second that are wanted.

    Returns:
        (samples,) float32 at `rate`. Channels are averaged. Other rates are resampled.

    Raises:
        UsageError: the source cannot be read, or is not a sound.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        known = path.suffix.lower() in (".wav", ".wave") or importlib.util.find_spec("soundfile") is None
        return read_wav(path, rate) if known else _read_other(path, rate)
    if isinstance(source, (bytes, bytearray)):
        return read_wav(BytesIO(bytes(source)), rate)
    own = rate
    if isinstance(source, Mapping):
        values = source.get("raw", source.get("array"))
        if values is None or "sampling_rate" not in source or not set(source) <= _KEYS:
            raise UsageError(f"A sound has the keys {sorted(map(str, source))}.", hint=_HINT)
        source, own = values, int(source["sampling_rate"])
    if not hasattr(source, "shape"):
        raise UsageError(f"A sound is needed, not a {type(source).__name__}.", hint=_HINT)
    samples = np.asarray(source)
    if samples.ndim == 2 and samples.shape[0] <= 2:
        samples = samples.mean(0)
    if samples.ndim != 1 or not samples.size:
        raise UsageError(f"An array of shape {samples.shape} is not a sound.", hint="Give (samples,).")
    return samples.astype(np.float32) if own == rate else resample(samples.astype(np.float64), own, rate)


def _read_other(path: Path, rate: int) -> NDArray[np.float32]:
    """What `soundfile` reads: FLAC, Ogg, MP3 and others.

    Raises:
        UsageError: the file cannot be read.
    """
    import soundfile

    try:
        frames, own = soundfile.read(str(path), dtype="float64", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be read as sound: {error}.", hint="Give a WAV file.") from error
    return resample(frames.mean(1), int(own), rate)
