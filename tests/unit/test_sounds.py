"""Sounds from files, bytes and arrays; texts of CTC models."""

from __future__ import annotations

import json
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport.errors import FolderError, UnknownPreprocessingError, UsageError
from onnxport.runtime.preprocessing.sounds.ctc import Piece, read_ctc_vocabulary
from onnxport.runtime.preprocessing.sounds.extractors import read_feature_extractor
from onnxport.runtime.preprocessing.sounds.load import load_sound

SAMPLES = np.sin(np.arange(800) / 9).astype(np.float32)


def wav_bytes(rate: int = 8_000) -> bytes:
    made = BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((SAMPLES * 32_767).astype("<i2").tobytes())
    return made.getvalue()


def test_a_sound_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes())
    forms: list[Any] = [tmp_path / "a.wav", str(tmp_path / "a.wav"), wav_bytes()]
    forms += [SAMPLES, SAMPLES.astype(np.float64), np.stack([SAMPLES, SAMPLES])]
    forms += [{"raw": SAMPLES, "sampling_rate": 8_000}, {"array": SAMPLES, "sampling_rate": 8_000, "path": "a.wav"}]
    for form in forms:
        found = load_sound(form, 8_000)
        assert found.dtype == np.float32 and found.shape == (800,)
        assert np.abs(found - SAMPLES).max() < 1e-4
    assert load_sound(wav_bytes(), 16_000).shape == (1600,)
    assert load_sound({"raw": SAMPLES, "sampling_rate": 8_000}, 4_000).shape == (400,)


@pytest.mark.parametrize(
    "given",
    [
        3, b"no sound", {"raw": SAMPLES}, {"raw": SAMPLES, "sampling_rate": 8_000, "stride": (1, 1)},
        np.zeros((5, 4)), np.zeros(0), "absent.wav",
    ],
)  # fmt: skip
def test_what_is_no_sound(given: Any) -> None:
    with pytest.raises(UsageError):
        load_sound(given, 8_000)


def ctc_folder(folder: Path, **config: Any) -> Path:
    vocabulary = {"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "D": 4}
    known = {"eng": vocabulary} if "target_lang" in config else vocabulary
    (folder / "vocab.json").write_text(json.dumps(known))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer", **config}))
    return folder


def test_frames_become_a_text(tmp_path: Path) -> None:
    vocabulary = read_ctc_vocabulary(ctc_folder(tmp_path))
    # Equal neighbours are one character, unless a blank lies between them; 9 is a token without a character.
    characters = vocabulary.characters([2, 3, 3, 0, 3, 2, 2, 4, 0, 9])
    assert [piece.text for piece in characters] == [" ", "A", "A", " ", "D", "<unk>"]
    assert vocabulary.text(characters) == "AA D<unk>"
    assert vocabulary.words(characters) == [Piece("AA", 1, 5), Piece("D<unk>", 7, 10)]
    lower = read_ctc_vocabulary(ctc_folder(tmp_path, do_lower_case=True, target_lang="eng"))
    assert lower.text(lower.characters([3, 4])) == "ad"
    with pytest.raises(FolderError, match="fra"):
        read_ctc_vocabulary(ctc_folder(tmp_path, target_lang="fra"))
    with pytest.raises(UnknownPreprocessingError, match="PhonemeTokenizer"):
        read_ctc_vocabulary(ctc_folder(tmp_path, tokenizer_class="PhonemeTokenizer"))
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(FolderError, match=r"vocab\.json"):
        read_ctc_vocabulary(tmp_path / "..")


def test_feature_extractors_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"preprocessor_config\.json"):
        read_feature_extractor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "ClapFeatureExtractor"}')
    with pytest.raises(UnknownPreprocessingError, match="ClapFeatureExtractor"):
        read_feature_extractor(tmp_path)
    both = {"feature_extractor": {"sampling_rate": 8_000}, "image_processor": {"do_resize": True}}
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(both))
    assert read_feature_extractor(tmp_path).sampling_rate == 8_000
