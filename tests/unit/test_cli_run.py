"""From words to calls, from answers to lines, and sound files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from onnxport.cli import calls
from onnxport.cli.answers import as_document, as_lines
from onnxport.errors import OnnxPortError, UsageError
from onnxport.runtime.preprocessing.sounds.wav import read_wav, resample
from onnxport.tasks import find_task


class _Nlp:
    """As much of a pipeline as the calls look at."""

    class feature_extractor:
        sampling_rate = 16_000


def test_words_become_calls() -> None:
    [call] = calls.calls_for(find_task("question-answering"), ["Who?", "Ada."], _Nlp())
    assert call.keywords == {"question": "Who?", "context": "Ada."}
    [call] = calls.calls_for(find_task("zero-shot-classification"), ["A phone", "tech, sport,"], _Nlp())
    assert (call.arguments, call.keywords) == (("A phone",), {"candidate_labels": ["tech", "sport"]})
    [call] = calls.calls_for(find_task("multiple-choice"), ["It rains.", "a", "b"], _Nlp())
    assert call.keywords == {"choices": ["a", "b"]}
    assert [c.shown for c in calls.calls_for(find_task("fill-mask"), ["a", "b"], _Nlp())] == ["a", "b"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("question-answering", ["Who?"]),
        ("zero-shot-classification", ["A phone", ","]),
        ("multiple-choice", ["It rains.", "a"]),
        ("next-sentence-prediction", ["a", "b", "c"]),
        ("image-classification", ["absent.png"]),
        ("audio-classification", ["absent.wav"]),
    ],
)
def test_wrong_inputs_are_told_with_an_example(task: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        calls.calls_for(find_task(task), words, _Nlp())
    assert caught.value.hint


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(UsageError, match="cannot be read as an image"):
        calls.read_image(str(tmp_path / "a.png"))


def test_every_task_has_lines_for_people() -> None:
    assert as_lines([{"label": "dog", "score": 0.25}]) == ["0.2500  dog"]
    assert as_lines({"sequence": "x", "labels": ["a", "b"], "scores": [0.75, 0.25]}) == ["0.7500  a", "0.2500  b"]
    assert as_lines({"text": "hello"}) == ["hello"]
    assert as_lines({"score": 0.5, "start": 0, "end": 3, "answer": "Ada"}) == ["0.5000  Ada  start: 0  end: 3"]
    assert as_lines({"is_next": True, "score": 0.9}) == ["0.9000  is_next: True"]
    assert as_lines([]) == ["nothing found"]
    assert as_lines([{"score": None, "label": "sky", "box": {"xmin": 1}}]) == ["sky  box: xmin 1"]


def test_pictures_and_arrays_are_described_not_dumped() -> None:
    from PIL import Image

    mask = Image.fromarray(np.array([[255, 0], [0, 0]], np.uint8))
    assert as_document({"mask": mask}) == {"mask": {"width": 2, "height": 2, "share": 0.25}}
    described = as_document([[[0.0, 1.0], [2.0, 3.0]]])
    assert described["shape"] == [1, 2, 2]
    assert described["mean"] == 1.5


def _write_wav(path: Path, values: np.ndarray, rate: int, width: int = 2) -> None:
    """`values` (frames, channels) in [-1, 1]."""
    scaled = np.round(values * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        data = (scaled + 128).astype(np.uint8).tobytes()
    else:
        data = scaled.astype("<i8").ravel().view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_of_pcm(tmp_path: Path, width: int) -> None:
    left = np.sin(np.arange(200) / 7)
    _write_wav(tmp_path / "a.wav", np.stack([left, np.zeros(200)], axis=1), 16_000, width)
    found = read_wav(tmp_path / "a.wav", 16_000)
    assert found.dtype == np.float32
    assert np.abs(found - left / 2).max() < 1.5 / 2 ** (8 * width - 1) + 1e-6


@pytest.mark.parametrize(("source", "target"), [(8000, 16_000), (44_100, 16_000), (22_050, 16_000), (16_000, 48_000)])
def test_resampling_keeps_a_tone(source: int, target: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(source) / source)
    found = resample(tone, source, target)
    assert len(found) == target
    wanted = np.sin(2 * np.pi * 440 * np.arange(target) / target)
    middle = slice(target // 10, -target // 10)
    assert np.abs(found - wanted)[middle].max() < 1e-3


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    tone = np.sin(2 * np.pi * 15_000 * np.arange(44_100) / 44_100)
    assert np.abs(resample(tone, 44_100, 16_000))[1000:-1000].max() < 1e-2


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all" * 10])
def test_a_file_that_is_no_sound(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(OnnxPortError, match="cannot be read as sound"):
        read_wav(tmp_path / "a.wav", 16_000)


def test_scores_stay_numbers() -> None:
    assert as_document({"labels": ["a", "b"], "scores": [0.75, 0.25]})["scores"] == [0.75, 0.25]
