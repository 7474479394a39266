"""The command line on tiny checkpoints: convert, run, inspect, verify, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxport.artifact.folder import read_folder
from tests.conversions import Conversions
from tests.tiny import save
from tests.unit.cli_runner import run, run_apart

pytestmark = pytest.mark.integration

Capture = pytest.CaptureFixture[str]
# Its code goes through a set of the names of layers.
SETS_OF_NAMES = "modernbert-text-classification"


def another_order_of_sets() -> dict[str, str]:
    """An environment in which Python hashes these names in another way than here."""
    code = "print([*{'full_attention', 'sliding_attention'}])"
    here = str([*{"full_attention", "sliding_attention"}])
    for seed in range(64):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        said = subprocess.run([sys.executable, "-Sc", code], env=environment, capture_output=True, text=True).stdout
        if said.strip() != here:
            return environment
    raise AssertionError("64 seeds, and one order")


@pytest.fixture
def source(converted: Conversions) -> Path:
    """A tiny text classifier."""
    return converted("bert-text-classification").source


@pytest.fixture
def folder(converted: Conversions) -> Path:
    """The same, converted."""
    return converted("bert-text-classification").folder


@pytest.fixture
def quantized(converted: Conversions) -> Path:
    """Another, with an int8 graph beside it."""
    return converted(SETS_OF_NAMES, quantize=True).folder


@pytest.mark.sweep
def test_convert_gives_one_document_and_the_same_bytes_in_every_process(quantized: Path, tmp_path: Path) -> None:
    source = save(SETS_OF_NAMES, tmp_path / "tiny-bert")
    folder = tmp_path / "new" / "folder"
    outcome = run_apart("convert", source, folder, "--quantize", "--json", env=another_order_of_sets())
    assert outcome.code == 0, outcome.err
    document = outcome.document
    assert document["path"] == str(folder)
    assert document["task"] == "text-classification"
    assert document["passed"] is True
    assert document["source"] == "tiny-bert"
    assert [component["name"] for component in document["components"]] == ["model", "model_quantized"]
    assert all(component["verification"]["passed"] for component in document["components"])
    assert all(Path(file).is_file() for file in document["files"])
    assert document["timings"].keys() == document["cpu"].keys()
    assert document["peak_memory_bytes"] > 2**20
    # Progress and tables are messages, and third parties say nothing.
    assert "Load" in outcome.err and "same label" in outcome.err
    assert "Warning" not in outcome.err and "torch.onnx" not in outcome.err
    manifest = read_folder(folder)
    copies, graphs = {"config.json", "tokenizer.json", "tokenizer_config.json"}, {"onnx/model.onnx"}
    graphs |= {component.file for component in manifest.components}
    assert copies | graphs <= manifest.files.keys() and len(graphs) == 2
    for name in copies | graphs:
        assert (folder / name).read_bytes() == (quantized / name).read_bytes(), name


def test_the_original_command_line(source: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "out" / "model.onnx"
    words = ["--pipeline", "text-classification", "--framework", "pt", "--opset", "17", "--check-loading", "--quiet"]
    outcome = run(capsys, "convert", *words, "--model", source, output)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{output}\n"
    assert outcome.err == ""
    assert sorted(file.name for file in output.parent.iterdir()) == ["model.onnx"]
    onnx.checker.check_model(output)
    shown = run(capsys, "inspect", output, "--json").document
    assert shown["graphs"][0]["opset"] == 17
    verified = run(capsys, "verify", output, "--against", source, "--task", "text-classification")
    assert verified.code == 0, verified.err


def test_a_second_conversion_needs_overwrite(source: Path, folder: Path, capsys: Capture) -> None:
    before = (folder / "onnxport.json").read_bytes()
    outcome = run(capsys, "convert", source, folder)
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert (folder / "onnxport.json").read_bytes() == before


def test_inspect(quantized: Path, capsys: Capture) -> None:
    outcome = run(capsys, "inspect", quantized)
    assert outcome.code == 0
    for wanted in (
        "BertForSequenceClassification",
        "model_quantized",
        "batch_size, sequence_length",
        "float32",
        "int8",
    ):
        assert wanted in outcome.out


@pytest.mark.quick  # one conversion, with all that makes a folder whole
def test_verify(source: Path, folder: Path, capsys: Capture) -> None:
    outcome = run(capsys, "verify", folder)
    assert outcome.code == 0, outcome.err
    assert "files as recorded" in outcome.out
    against = run(capsys, "verify", folder, "--against", source, "--json").document
    assert against["ok"] is True
    assert against["verifications"]["model"]["passed"] is True


def test_verify_finds_another_model(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    other = save("bert-text-classification", tmp_path / "other", seed=1)
    outcome = run(capsys, "verify", folder, "--against", other)
    assert outcome.code == 1
    assert "error: " in outcome.err


def test_verify_finds_a_changed_file(converted: Conversions, tmp_path: Path, capsys: Capture) -> None:
    converted("bert-text-classification").copy(tmp_path / "out")
    with (tmp_path / "out" / "onnx" / "model.onnx").open("r+b") as file:
        file.write(b"\0\0")
    outcome = run(capsys, "verify", tmp_path / "out")
    assert outcome.code == 2
    assert "onnx/model.onnx differs" in outcome.err


@pytest.mark.parametrize(("given", "component"), [("folder", "model"), ("quantized", "model_quantized")])
def test_run(source: Path, given: str, component: str, capsys: Capture, request: pytest.FixtureRequest) -> None:
    import transformers

    folder: Path = request.getfixturevalue(given)
    outcome = run(capsys, "run", folder, "I love it.", "I hate it.", "--json", "--component", component)
    assert outcome.code == 0, outcome.err
    [first, second] = outcome.document["results"]
    assert (first["input"], second["input"]) == ("I love it.", "I hate it.")
    if component == "model":
        wanted = transformers.pipeline("text-classification", model=str(source))("I love it.")[0]
        [found] = first["output"]
        assert found["label"] == wanted["label"]
        assert found["score"] == pytest.approx(wanted["score"], abs=1e-5)
    lines = run(capsys, "run", folder, "I love it.", "--component", component).out.splitlines()
    assert len(lines) == 1
    assert lines[0].split()[1] in ("negative", "neutral", "positive")


def test_run_of_a_component_that_is_not_there(folder: Path, capsys: Capture) -> None:
    outcome = run(capsys, "run", folder, "x", "--component", "modell")
    assert outcome.code == 2
    assert "Did you mean 'model'" in outcome.err


def test_run_of_another_task(folder: Path, capsys: Capture) -> None:
    outcome = run(capsys, "run", folder, "A phone", "tech,sport", "--task", "zero-shot-classification", "--json")
    assert outcome.code == 0, outcome.err
    assert sum(outcome.document["results"][0]["output"]["scores"]) == pytest.approx(1, abs=1e-4)


def test_sentences_get_embeddings_and_similarities(converted: Conversions, capsys: Capture) -> None:
    folder = converted("sentence-bert").folder
    document = run(capsys, "run", folder, "A cat.", "A dog.", "A cat.", "--json").document
    vectors = [np.array(result["embedding"]) for result in document["results"]]
    similarities = np.array(document["similarities"])
    assert similarities[0, 2] == pytest.approx(1, abs=1e-6)
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    assert similarities[0, 1] == pytest.approx(cosine, abs=1e-6)
    text = run(capsys, "run", folder, "A cat.", "A dog.").out
    assert "sentence_embedding: 1 x " in text
    assert "cosine similarities" in text


def test_sound_at_another_rate(converted: Conversions, tmp_path: Path, capsys: Capture) -> None:
    folder = converted("audio-spectrogram-transformer-audio-classification").folder
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.sin(np.arange(4000) / 3) * 9999).astype("<i2").tobytes())
    outcome = run(capsys, "run", folder, tmp_path / "tone.wav")
    assert outcome.code == 0, outcome.err
    scores = [float(line.split()[0]) for line in outcome.out.splitlines()]
    assert scores == sorted(scores, reverse=True)
    assert "speech" in outcome.out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bert-question-answering", ["Who wrote it?", "Ada wrote it."]),
        ("bert-multiple-choice", ["It rains.", "I get wet.", "I fly."]),
        ("bert-next-sentence-prediction", ["It rains.", "The street is wet."]),
    ],
)
def test_tasks_that_take_several_texts(converted: Conversions, capsys: Capture, name: str, words: list[str]) -> None:
    outcome = run(capsys, "run", converted(name).folder, *words, "--json")
    assert outcome.code == 0, outcome.err
    assert "score" in json.dumps(outcome.document["results"][0]["output"])


def test_allow_mismatch_publishes_with_exit_1(
    source: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxport.verification.compare

    monkeypatch.setattr(onnxport.verification.compare, "measured_tolerance", lambda noise, scale: 0.0)
    outcome = run(capsys, "convert", source, tmp_path / "out", "--allow-mismatch", "--json")
    assert outcome.code == 1
    assert outcome.document["passed"] is False
    assert "the outputs differ" in outcome.err
    assert (tmp_path / "out" / "onnx" / "model.onnx").is_file()
