"""Read WAV files at the sampling rate of a model, with the standard library and numpy alone."""

from __future__ import annotations

import math
import wave
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError

# Zero crossings of the low-pass filter on each side, at the lower of the two rates.
_CROSSINGS = 32
_BLOCK = 4096  # output samples at a time, to limit memory


def read_wav(path: Path | BinaryIO, rate: int) -> NDArray[np.float32]:
    """Samples of the WAV file `path`, or of an open one, in [-1, 1], all channels averaged, at `rate` per second.

    Raises:
        UsageError: no such file, or not PCM of 8, 16, 24 or 32 bits.
    """
    name = path if isinstance(path, Path) else "The sound"
    if isinstance(path, Path) and not path.is_file():
        raise UsageError(f"There is no file {str(path)!r}.", hint="Give an existing WAV file.")
    try:
        with wave.open(str(path) if isinstance(path, Path) else path, "rb") as file:
            width, channels, own_rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise UsageError(
            f"{name} cannot be read as sound: {str(error) or 'it ends too early'}.",
            hint=f"Convert it to 16-bit PCM, for example: ffmpeg -i {path} -c:a pcm_s16le sound.wav",
        ) from error
    frames = _decode(data[: len(data) - len(data) % (width * channels)], width).reshape(-1, channels)
    if not len(frames):
        raise UsageError(f"{name} has no samples.", hint="Give a WAV file that is not empty.")
    return resample(frames.mean(axis=1), own_rate, rate)


def _decode(data: bytes, width: int) -> NDArray[np.float64]:
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128.0) / 128.0
    if width == 3:
        # Three bytes become the upper three of four.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4").ravel().astype(np.float64) / 2.0**31
    return np.frombuffer(data, f"<i{width}").astype(np.float64) / 2.0 ** (8 * width - 1)


def resample(samples: NDArray[np.float64], source: int, target: int) -> NDArray[np.float32]:
    """`samples` at `source` per second as samples at `target` per second.

    A windowed sinc low-pass at the lower of the two Nyquist frequencies, evaluated exactly at the
    new instants (one set of taps for every phase between the two grids).
    """
    if source == target:
        return samples.astype(np.float32)
    common = math.gcd(source, target)
    up, down = target // common, source // common
    reach = math.ceil(_CROSSINGS * max(1.0, source / target))  # input samples on each side
    length = -(-len(samples) * up // down)
    padded = np.pad(samples, (reach, reach + down))
    result = np.zeros(length, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach)
    offsets = np.arange(2 * reach, dtype=np.float64) - reach + 1
    for phase in range(min(up, length)):
        first, fraction = divmod(phase * down, up)
        taps = _taps(offsets - fraction / up, min(1.0, target / source), reach)
        places = np.arange(first, len(samples), down)[: len(range(phase, length, up))]
        for start in range(0, len(places), _BLOCK):
            block = places[start : start + _BLOCK]
            begin = phase + start * up
            # Window n begins at input sample n - reach; the taps want n - reach + 1.
            result[begin : begin + len(block) * up : up] = windows[block + 1] @ taps
    return result


def _taps(distance: NDArray[np.float64], cutoff: float, reach: int) -> NDArray[np.float64]:
    """The filter at `distance` (in input samples) from its middle; its sum is 1, so that silence and level stay."""
    window = np.cos(np.clip(distance / reach, -1.0, 1.0) * np.pi / 2) ** 2
    taps: NDArray[np.float64] = np.sinc(distance * cutoff) * window
    taps /= taps.sum()
    return taps
