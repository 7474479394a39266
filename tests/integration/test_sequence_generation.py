"""Encoder-decoders in the run time: the tokens of transformers' generate, without transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from onnxport import pipeline
from onnxport.artifact import folder as folder_module
from onnxport.artifact.folder import open_folder
from onnxport.artifact.manifest_json import from_json
from onnxport.errors import FolderError, UsageError
from onnxport.pipelines.onnx.load import load_onnx_model
from onnxport.runtime.prompts.whisper import SpeechOptions
from onnxport.runtime.sequence_generation import SequenceGenerator, TextToTextGenerator
from onnxport.runtime.session import OnnxSession
from tests.unit.cli_runner import run

pytestmark = pytest.mark.integration

TEXTS = ["the river of stone", "seven", "Paris is a city by the water and the garden"]
PAD = 1


@pytest.fixture(scope="module")
def text(converted):
    """(source, converted)"""
    tiny = converted("t5-untied", pipeline_name="text2text-generation")
    return tiny.source, tiny.folder


@pytest.fixture(scope="module")
def speech(converted):
    """(source, converted)"""
    tiny = converted("whisper", pipeline_name="automatic-speech-recognition")
    return tiny.source, tiny.folder


def padded(rows, shape):
    made = np.full(shape, PAD)
    for row, tokens in zip(made, rows, strict=True):
        row[: len(tokens)] = tokens
    return made


SETTINGS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "long beams": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 3},
    "exhaustive": {"num_beams": 3, "early_stopping": "never", "length_penalty": -1.0, "no_repeat_ngram_size": 2},
    "forced": {"forced_bos_token_id": 9, "forced_eos_token_id": 2, "begin_suppress_tokens": [11, 12]},
    "read": {"encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.4, "repetition_penalty": 1.3},
    "many ends": {"eos_token_id": [2, *range(100, 120)], "num_beams": 3, "num_return_sequences": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_padded_batch_has_the_tokens_of_transformers(text, name):
    source, out = text
    settings = {"max_new_tokens": 18} | SETTINGS[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    given = tokenizer(TEXTS, return_tensors="pt", padding=True)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source).eval()
    wanted = model.generate(given["input_ids"], attention_mask=given["attention_mask"], **settings)[:, 1:].numpy()
    generator = SequenceGenerator(out)
    arrays = {name: value.numpy() for name, value in given.items()}
    found = generator.tokens(arrays, generator.settings(**settings))
    assert np.array_equal(padded(found, wanted.shape), wanted)
    assert len({tuple(row) for row in found}) > 2


def test_texts_without_a_framework(text):
    source, out = text
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source).eval()
    given = tokenizer(TEXTS, return_tensors="pt", padding=True)
    tokens = model.generate(given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=15)
    wanted = tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    writer = TextToTextGenerator(out)
    assert writer(TEXTS, max_new_tokens=15) == wanted
    assert writer(TEXTS[1], max_new_tokens=15) == wanted[1]
    pieces = list(writer.stream(TEXTS[2], max_new_tokens=15))
    assert "".join(pieces) == wanted[2] and len(pieces) > 4
    with pytest.raises(UsageError, match="not available with beam search"):
        next(writer.stream(TEXTS[2], num_beams=2))
    stop = wanted[2][3:5]
    assert stop in writer(TEXTS[2], max_new_tokens=15, stop_strings=stop)
    assert len(writer(TEXTS[2], max_new_tokens=15, stop_strings=stop)) < len(wanted[2])
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, onnx=None)\n"
        f"sys.argv = ['onnxport', 'run', {str(out)!r}, *{TEXTS!r}, '--set', 'max_new_tokens=15', '--set', "
        "'num_beams=1', '--json']\n"
        "from onnxport.__main__ import program; program()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [result["output"][0]["generated_text"] for result in results] == wanted


@pytest.mark.parametrize("task", ["text2text-generation", "summarization", "translation_en_to_de"])
def test_pipelines_of_the_folder_and_of_the_checkpoint_agree(text, task):
    source, out = text
    wanted = pipeline(task, model=str(source))(TEXTS, max_new_tokens=12)
    assert pipeline(task, model=str(out))(TEXTS, max_new_tokens=12) == wanted


def test_what_config_json_says_for_the_task_holds(text, tmp_path):
    out = shutil.copytree(text[1], tmp_path / "out")
    said = json.loads((out / "config.json").read_text())
    own = {"prefix": "ask: ", "max_length": 9, "num_beams": 2}
    (out / "config.json").write_text(json.dumps(said | {"task_specific_params": {"text2text-generation": own}}))
    plain = TextToTextGenerator(text[1])
    assert TextToTextGenerator(out)(TEXTS[0]) == plain("ask: " + TEXTS[0], max_length=9, num_beams=2)


@pytest.mark.parametrize(
    ("kind", "languages"),
    [
        ("NllbTokenizer", ("fra_Latn", "deu_Latn")),
        ("MBart50Tokenizer", ("fr_XX", "de_DE")),
        ("MBartTokenizer", ("fr_XX", "de_DE")),
    ],
)
def test_translators_between_many_languages(text, tmp_path, kind, languages):
    out = shutil.copytree(text[1], tmp_path / "out")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", "a", "b", "\u2581a", "ab"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    if kind == "NllbTokenizer":
        tokenizer = transformers.NllbTokenizer(vocab=vocabulary, merges=[("a", "b")])
    else:
        tokenizer = getattr(transformers, kind)(vocab=[(piece, -float(n)) for piece, n in vocabulary.items()])
    tokenizer.save_pretrained(out)
    writer = TextToTextGenerator(out)
    with pytest.raises(UsageError, match="many languages"):
        writer("ab a")
    source, target = languages
    with pytest.raises(UsageError, match="no language 'xx_XX'"):
        writer("ab a", src_lang=source, tgt_lang="xx_XX")
    said = ["ab a", f"a {target} b"]  # the second names a language, which stays a word
    wanted = tokenizer._build_translation_inputs(
        said, return_tensors="np", src_lang=source, tgt_lang=target, padding=True
    )
    ids, mask = writer.texts.encode(said, 1, "right", replaced=writer.languages.source_replacements(source))
    assert ids.tolist() == wanted["input_ids"].tolist() and mask.tolist() == wanted["attention_mask"].tolist()
    first = writer.languages.first_token(target, None, 0)
    assert first == wanted["forced_bos_token_id"]
    answers = writer.tokens({"input_ids": ids, "attention_mask": mask}, writer.settings(forced_bos_token_id=first))
    assert [row[0] for row in answers] == [first] * 2
    assert writer(said, src_lang=source, tgt_lang=target, stop_strings="q") == [
        writer.texts.decode(row) for row in answers
    ]


def save_said(folder, said):
    own = json.loads((folder / "generation_config.json").read_text())
    own.pop("_from_model_config", None)  # transformers would not read what is no setting of its own
    (folder / "generation_config.json").write_text(json.dumps(own | said))


TOKENS = {"suppress_tokens": [30, 31, 40, 41], "begin_suppress_tokens": [100, 2], "max_length": 40}
NAMES = {
    "lang_to_id": {"<|en|>": 20, "<|de|>": 21, "<|fr|>": 25}, "task_to_id": {"transcribe": 22, "translate": 23},
    "is_multilingual": True,
}  # fmt: skip
# What generation_config.json says, and what the caller says.
SPOKEN = {
    "found": (NAMES, {}),
    "one language": (NAMES, {"language": "de"}),
    "a language a row": (NAMES, {"language": ["en", "fr", "de"]}),
    "translate": (NAMES, {"language": "en", "task": "translate", "max_new_tokens": 6}),
    "beams": (NAMES, {"task": "transcribe", "num_beams": 3}),
    "forced": ({"forced_decoder_ids": [[1, 20], [2, 22]]}, {}),
    "forced task": (NAMES | {"forced_decoder_ids": [[1, None], [2, 22]]}, {}),
    "one language alone": ({"is_multilingual": False}, {}),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_languages_and_tasks_of_speech(speech, tmp_path, name):
    said, calls = SPOKEN[name]
    source, out = (shutil.copytree(folder, tmp_path / folder.name) for folder in speech)
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    for folder in (source, out):
        save_said(folder, TOKENS | {"no_timestamps_token_id": vocabulary - 1, "return_timestamps": False} | said)
    sound = np.random.default_rng(3).standard_normal((3, 16, 100)).astype(np.float32)
    model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(source).eval()
    wanted = model.generate(torch.from_numpy(sound), **calls)
    found = load_onnx_model(out).generate(torch.from_numpy(sound), **calls)
    ends = (PAD, 2)
    for row, other in zip(found.tolist(), wanted.tolist(), strict=True):
        assert [token for token in row if token not in ends] == [token for token in other if token not in ends]
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_errors_of_speech_say_what_to_do(speech, tmp_path):
    out = shutil.copytree(speech[1], tmp_path / "out")
    save_said(out, NAMES)
    sound = {"input_features": np.zeros((1, 16, 100), np.float32)}
    generator = SequenceGenerator(out)
    for options, words in ((SpeechOptions("it"), "no language 'it'"), (SpeechOptions(task="sing"), "no task 'sing'")):
        with pytest.raises(UsageError, match=words):
            generator.tokens(sound, generator.settings(), speech=options)
    with pytest.raises(UsageError, match="needs input_features"):
        generator.tokens({}, generator.settings())
    settings = generator.settings(max_new_tokens=500)
    for beams in (1, 2):
        with pytest.raises(UsageError, match=f"{settings.positions} positions"):
            generator.tokens(sound, settings.changed(num_beams=beams))
    save_said(out, {"return_timestamps": True})
    with pytest.raises(UsageError, match="asks for timestamps"):
        SequenceGenerator(out).tokens(sound, generator.settings())
    with pytest.raises(UsageError, match="has no graphs 'model_q4'"):
        SequenceGenerator(out, "model_q4")


@pytest.mark.parametrize("command", ["run", "pipeline", "model", "sessions"])
def test_the_manifest_is_read_once(text, capsys, monkeypatch, command):
    """However many graphs and settings of the folder are needed."""
    read = []
    monkeypatch.setattr(folder_module, "from_json", lambda text: read.append(text) or from_json(text))
    if command == "run":
        assert run(capsys, "run", text[1], TEXTS[0], "--set", "max_new_tokens=3").code == 0
    elif command == "pipeline":
        assert pipeline("text2text-generation", model=text[1])(TEXTS[0], max_new_tokens=3)
    elif command == "model":
        assert load_onnx_model(text[1]).can_generate()
    else:
        opened = open_folder(text[1])
        assert [OnnxSession(opened, name).component.name for name in opened.names] == opened.names
    assert len(read) == 1


def test_a_decoder_alone_is_no_encoder_decoder(text, tmp_path):
    out = shutil.copytree(text[1], tmp_path / "out")
    said = json.loads((out / "onnxport.json").read_text())
    said["components"] = [one for one in said["components"] if one["name"] != "encoder_model"]
    (out / "onnxport.json").write_text(json.dumps(said))
    with pytest.raises(FolderError, match="has no encoder and decoder"):
        SequenceGenerator(out)
