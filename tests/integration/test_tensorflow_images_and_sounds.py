"""TF classes that take images and sounds."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.hf_tensorflow import Converted, needs_tensorflow
from tests.once import Once
from tests.unit.cli_runner import run

pytestmark = [pytest.mark.integration, needs_tensorflow]


@pytest.fixture(scope="module")
def converted(once: Once) -> Converted:
    return Converted(once, "tensorflow-media", {"vit": "auto", "wav2vec2": "auto"})


@pytest.mark.parametrize("name", ["vit", "wav2vec2"])
def test_numbers_are_tensorflows(converted: Converted, name: str) -> None:
    converted.require_reference_numbers(name)


def test_axes(converted: Converted) -> None:
    assert converted.axes("wav2vec2")["input_values"] == ("batch_size", "num_samples")
    assert converted.axes("vit")["pixel_values"] == ("batch_size", 3, 32, 32)
    reasons = [r.reason for r in converted.manifest("vit").components[0].restrictions if r.axis == "height"]
    assert reasons and "doesn't match model" in reasons[0]  # what the class itself says


def test_run_an_image(converted: Converted, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    outcome = run(capsys, "run", converted.path("vit"), tmp_path / "image.png")
    assert outcome.code == 0, outcome.err
    assert any(label in outcome.out for label in ("cat", "dog", "bird", "horse", "fish"))


def test_run_a_sound(converted: Converted, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    samples = (np.random.default_rng(0).standard_normal(8000) * 3000).astype("<i2")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    outcome = run(capsys, "run", converted.path("wav2vec2"), tmp_path / "sound.wav")
    assert outcome.code == 0, outcome.err
