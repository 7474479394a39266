"""What the command line prints, word for word: help, errors and tables (tests/snapshots/*.txt)."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.artifact.folder import write_manifest
from onnxport.artifact.manifest import Component
from onnxport.specs import TensorSpec
from tests.unit.checkpoints import CONFIG, WEIGHTS
from tests.unit.cli_runner import Outcome, run, run_apart
from tests.unit.sample_manifest import make_manifest
from tests.unit.snapshots import check_snapshot

Capture = pytest.CaptureFixture[str]
COMMANDS = (
    "convert", "batch", "bench", "run", "serve", "verify", "inspect", "compare", "report", "optimize", "quantize",
    "target", "tasks", "env",
)  # fmt: skip
ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
# Numbers that differ between machines, and from version to version.
CHANGING = (
    (re.compile(r"fill-mask, [\d.]+ kB"), "fill-mask, SIZE"),  # of the manifest, mostly
    (re.compile(r"\d+\.\d s$", re.M), "0.0 s"),
    (re.compile(r"supported: use \d+ to \d+"), "supported: use FIRST to LAST"),
    (re.compile(r"--opset \d+, or omit it for \d+"), "--opset N, or omit it for DEFAULT"),
)


@pytest.fixture(autouse=True)
def _same_terminal_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)  # messages name files as they were given


def transcript(words: Sequence[str], outcome: Outcome) -> str:
    """A command and what it printed, as in a terminal."""
    shown = " ".join(f'"{word}"' if " " in word or not word else word for word in words)
    text = f"$ onnxport {shown}\n{outcome.out}{outcome.err}[exit code {outcome.code}]\n"
    for pattern, constant in ((re.compile(re.escape(str(Path.cwd()))), "CURRENT"), *CHANGING):
        text = pattern.sub(constant, text)
    return text


def all_of(capsys: Capture, *commands: Sequence[str], code: int = 0) -> str:
    """Transcripts of commands that end with `code`; errors leave stdout empty."""
    outcomes = [run(capsys, *words) for words in commands]
    assert [outcome.code for outcome in outcomes] == [code] * len(commands)
    assert code == 0 or not any(outcome.out for outcome in outcomes)
    return "\n".join(map(transcript, commands, outcomes))


def checkpoint(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(WEIGHTS)


def converted(folder: Path) -> None:
    """A folder whose graph gives x + 1."""
    (folder / "onnx").mkdir(parents=True)
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "add", values[:1], values[1:], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "onnx" / "model.onnx")
    (folder / "config.json").write_text("{}")
    manifest = make_manifest()
    specs = [TensorSpec(name, "float32", ("batch_size", 4)) for name in ("x", "y")]
    component: Component = replace(
        manifest.components[0], inputs=(specs[0],), outputs=(specs[1],), restrictions=(), data_files=(),
        weights_checksum=None, parameters=1, operators={"Add": 1}, verification=None, fixes=(), size_bytes=150,
    )  # fmt: skip
    write_manifest(folder, replace(manifest, components=(component,), files={}, notes=()))


def test_help(capsys: Capture) -> None:
    check_snapshot("help", all_of(capsys, ("--help",)))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(capsys: Capture, command: str) -> None:
    more = [(command, sub, "--help") for sub in ("create", "remove", "list")] if command == "env" else []
    check_snapshot(f"help_{command}", all_of(capsys, (command, "--help"), *more))


def test_wrong_usage(capsys: Capture) -> None:
    commands = [
        ("convrt",), ("convert",), ("convert", "only-one"), ("convert", "", "b"), ("convert", "a", "b", "c"),
        ("convert", "--model", "a", "b", "c"), ("convert", "--modle", "x", "out"),
        ("convert", "--check-loadin", "x", "out"), ("convert", "--opset", "new", "a", "b"),
        ("convert", "a", "b", "--shard-size", "2 GigaBytes"), ("convert", "a", "b", "--max-loss", "1%"),
        ("convert", "a", "b", "--optimize", "--for", "cpus"), ("convert", "a", "b.onnx", "--optimize"),
        ("inspect",), ("run", "folder"), ("tasks", "--jsn"),
        ("env", "creat"), ("env", "create"), ("env", "create", "hf-tensorflwo"),
        ("env", "remove", "hf-tensorflow", "--jsn"),
    ]  # fmt: skip
    check_snapshot("usage_errors", all_of(capsys, *commands, code=2))


def test_errors_of_convert(capsys: Capture) -> None:
    checkpoint(Path("model"))
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    converted(Path("converted"))
    commands = [
        ("convert", "./absent", "out"), ("convert", "empty", "out"), ("convert", "--task", "fil-mask", "model", "out"),
        ("convert", "--framework", "jax", "model", "out"), ("convert", "model", "full"),
        ("convert", "model", "converted"), ("convert", "model", "full/notes.txt/out"),
        ("convert", "--opset", "99", "model", "out"), ("convert", "--opset", "5", "model", "out"),
        ("convert", "--target", "tensorrt", "model", "out"), ("convert", "--target", "transformers.js", "model", "out"),
        ("convert", "converted", "out"),
    ]  # fmt: skip
    check_snapshot("convert_errors", all_of(capsys, *commands, code=2))
    assert not Path("out").exists() and Path("full/notes.txt").read_text() == "mine"


def test_errors_of_folders(capsys: Capture) -> None:
    converted(Path("converted"))
    for name in ("damaged", "cut", "empty"):
        shutil.copytree("converted", name)
    Path("damaged/onnx/model.onnx").write_bytes(b"not a graph at all")
    shutil.rmtree("cut/onnx")
    for file in Path("empty").rglob("*.*"):
        if file.is_file():
            file.unlink()
    commands = [
        *((command, "absent") for command in ("inspect", "verify", "optimize", "quantize")), ("run", "absent", "x"),
        ("inspect", "empty"), ("verify", "empty"), ("verify", "damaged"), ("verify", "cut"),
        ("optimize", "damaged"), ("optimize", "--for", "tpu", "converted"),
        ("optimize", "--sizes", "batch=1", "converted"), ("optimize", "--sizes", "batch_size", "converted"),
        ("quantize", "-p", "int3", "converted"), ("quantize", "--float-activations", "converted"),
        ("run", "converted", "x", "--task", "fil-mask"), ("target", "tensorrt", "converted"),
    ]  # fmt: skip
    check_snapshot("folder_errors", all_of(capsys, *commands, code=2))


@pytest.mark.slow
def test_missing_packages() -> None:
    checkpoint(Path("model"))
    converted(Path("converted"))
    block = "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'onnx', 'onnx_ir', 'onnxscript']))"
    commands = [("convert", "model", "out"), ("quantize", "converted")]
    texts = [transcript(words, run_apart(*words, before=block)) for words in commands]
    check_snapshot("missing_packages", "\n".join(texts))
    assert not Path("out").exists()


def test_tables(capsys: Capture) -> None:
    converted(Path("converted"))
    evidence = Path("with_evidence")
    (evidence / "onnx").mkdir(parents=True)
    (evidence / "onnx" / "model.onnx").write_bytes(b"graph")
    write_manifest(evidence, replace(make_manifest(), files={}))
    check_snapshot("tasks", all_of(capsys, ("tasks",)))
    check_snapshot("inspect", all_of(capsys, ("inspect", "converted"), ("inspect", "with_evidence")))
    check_snapshot("verify", all_of(capsys, ("verify", "converted")))
