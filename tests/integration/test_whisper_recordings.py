"""Whisper with timestamps and on recordings that are longer than its window: the answers of transformers' pipeline."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import transformers

from onnxport import pipeline
from onnxport.errors import UsageError
from onnxport.runtime.decoding.transcript import joined
from onnxport.runtime.pipeline import open_pipeline
from tests import tiny_tokenizers

pytestmark = pytest.mark.integration

RATE, TIMES = 16_000, 340  # samples a second; the token that says that there are no timestamps


def recording(seconds, seed=0):
    rng = np.random.default_rng(seed)
    steps = np.arange(int(RATE * seconds)) / RATE
    tone = np.sin(2 * np.pi * steps * rng.uniform(200, 900) * (1 + 0.4 * np.sin(7 * steps)))
    return (0.3 * tone * np.abs(np.sin(5 * steps)) + 0.05 * rng.standard_normal(len(steps))).astype(np.float32)


@pytest.fixture(scope="module")
def both(converted, tmp_path_factory):
    """(transformers' pipeline of the checkpoint, the folder's): a tokenizer of Whisper whose last tokens are times."""
    tiny, root = converted("whisper", pipeline_name="automatic-speech-recognition"), tmp_path_factory.mktemp("whisper")
    folders = [shutil.copytree(tiny.source, root / "m"), tiny.copy(root / "out")]
    words = sorted(tiny_tokenizers.roberta().get_vocab().items(), key=lambda item: item[1])
    names = {token: word for word, token in words}
    last = len(names) - 1
    names |= {token: f"<|{(token - TIMES - 1) / 50:.2f}|>" for token in range(TIMES + 1, last + 1)}
    names |= {0: "<|startoftranscript|>", 2: "<|endoftext|>", TIMES: "<|notimestamps|>"}
    tokenizer = transformers.WhisperTokenizer(
        vocab={names[token]: token for token in sorted(names)}, merges=[], bos_token=names[0], eos_token=names[2],
        unk_token=names[2], pad_token=names[2], additional_special_tokens=[names[0], names[TIMES]],
    )  # fmt: skip
    settings = {
        "no_timestamps_token_id": TIMES, "is_multilingual": False, "max_initial_timestamp_index": 9, "eos_token_id": 2,
        "pad_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 0, "begin_suppress_tokens": [5, 2],
        "suppress_tokens": [1, 3], "max_length": 60,
    }  # fmt: skip
    for folder in folders:
        tokenizer.save_pretrained(folder)
        (folder / "generation_config.json").write_text(json.dumps(settings))
    return pipeline("automatic-speech-recognition", model=str(folders[0])), open_pipeline(folders[1])


MORE = pytest.mark.sweep
CHUNKS = {"chunk_length_s": 1}


@pytest.mark.parametrize(
    ("seconds", "arguments", "beams"),
    [
        (2.7, CHUNKS, 1),
        (3.3, {"return_timestamps": True}, 1),  # segment by segment
        (2.7, CHUNKS | {"return_timestamps": True}, 2),
        pytest.param(3.4, {"chunk_length_s": 0.8, "stride_length_s": (0.2, 0.1)}, 2, marks=MORE),
        pytest.param(0.9, {"return_timestamps": True}, 1, marks=MORE),
        pytest.param(2.2, {}, 1, marks=MORE),
        pytest.param(3.3, {"return_timestamps": True}, 2, marks=MORE),
        pytest.param(5.2, {"chunk_length_s": 0.7, "stride_length_s": 0.05, "return_timestamps": True}, 1, marks=MORE),
    ],
)
def test_the_answers_of_transformers(both, seconds, arguments, beams):
    settings = {"generate_kwargs": {"num_beams": beams, "max_new_tokens": 16}}
    source, nlp = both
    for seed in range(2):
        sound = recording(seconds, seed)
        wanted = source(sound.copy(), **arguments, **settings, ignore_warning=True)
        assert nlp(sound, **arguments, **settings) == wanted, seed
    assert len(wanted["text"]) > 5  # else nothing would pass
    assert ("chunks" in wanted) == ("return_timestamps" in arguments)


COLD = 1e-5  # a draw at this temperature is the likeliest token


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        # After the first draw there are no beams; the last answer stands.
        ({"return_timestamps": True}, {"temperature": (0.0, COLD), "logprob_threshold": 0.0, "num_beams": 2}),
        ({}, {"temperature": COLD, "return_timestamps": True}),
        pytest.param(
            {}, {"temperature": [0.0, COLD, 0.0], "compression_ratio_threshold": 0.9, "num_beams": 3}, marks=MORE
        ),
        pytest.param(
            CHUNKS, {"temperature": (0.0, COLD), "compression_ratio_threshold": 0.8, "num_beams": 2}, marks=MORE
        ),
        pytest.param(
            {"return_timestamps": True}, {"temperature": (0.0, COLD), "logprob_threshold": -2.2, "num_beams": 2},
            marks=MORE,
        ),
    ],
)  # fmt: skip
def test_further_attempts(both, arguments, settings):
    source, nlp = both
    sound, settings = recording(2.3), {"max_new_tokens": 16, **settings}
    wanted = source(sound.copy(), **arguments, generate_kwargs=dict(settings), ignore_warning=True)
    assert nlp(sound, **arguments, generate_kwargs=settings) == wanted
    if settings.get("num_beams"):
        beams = {"num_beams": settings["num_beams"], "max_new_tokens": 16}
        assert nlp(sound, **arguments, generate_kwargs=beams) != wanted


def test_silence_is_left_out(both):
    source, nlp = both
    sound, found = recording(1.7), []
    for threshold in (1e-9, 1.0):
        settings = {"temperature": (0.0,), "logprob_threshold": 0.0, "no_speech_threshold": threshold, "num_beams": 1}
        settings["max_new_tokens"] = 16
        wanted = source(sound.copy(), return_timestamps=True, generate_kwargs=dict(settings), ignore_warning=True)
        assert nlp(sound, return_timestamps=True, generate_kwargs=settings) == wanted
        found.append(len(wanted["chunks"]))
    assert found[0] == 0 < found[1]


@pytest.mark.parametrize(
    "arguments", [{"chunk_length_s": 3}, {"chunk_length_s": 1, "stride_length_s": 0.5}, {"return_timestamps": "word"},
                  {"return_timestamps": "char"}, {"temperature": (0.0, -1.0)}, {"temperature": "warm"},
                  {"no_speech_threshold": 0.5}, {"logprob_threshold": "low"}, {"condition_on_prev_tokens": True}]
)  # fmt: skip
def test_what_cannot_be_done_is_said(both, arguments):
    with pytest.raises(UsageError):
        both[1](recording(2.0), **arguments)


def test_settings_that_do_not_exist_are_refused(both):
    folder = both[1].folder
    for settings in ({"num_beam": 2}, {"generate_kwargs": {"chunk_length": 3}}):
        with pytest.raises(UsageError):
            open_pipeline(folder, **settings)
    usual = {"chunk_length_s": 1, "temperature": (0.0, 0.2), "language": None, "generate_kwargs": {"num_beams": 2}}
    open_pipeline(folder, **usual).close()


def test_overlaps_are_joined_as_transformers_does():
    from transformers.models.whisper.tokenization_whisper import _find_longest_common_sequence

    rng = np.random.default_rng(3)
    for _ in range(60):
        text = rng.integers(0, 9, 40).tolist()
        cuts = [text[:14], text[10:25], text[20:]]
        noisy = [[int(rng.integers(9)) if rng.random() < 0.2 else token for token in part] for part in cuts]
        assert joined(noisy) == _find_longest_common_sequence(noisy)
    assert joined([[1, 2, 3, 4], [3, 4, 5]]) == [1, 2, 3, 4, 5]
