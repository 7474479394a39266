"""The command line without conversions: usage, errors, exit codes, streams."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onnxport.artifact.folder import write_manifest
from onnxport.cli.console import Console
from onnxport.cli.interrupts import Interrupts
from onnxport.errors import VerificationError
from onnxport.tasks import TASKS
from tests.unit.cli_runner import run, run_apart
from tests.unit.sample_manifest import make_manifest

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as in a pipe, whatever runs the tests says of its own width."""
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def test_no_command_shows_the_commands(capsys: Capture) -> None:
    outcome = run(capsys)
    assert outcome.code == 0
    assert all(name in outcome.out for name in ("convert", "run", "verify", "inspect", "tasks", "env"))


def test_version(capsys: Capture) -> None:
    from onnxport import __version__

    assert run(capsys, "--version").out.strip() == __version__


def test_errors_with_json_are_one_document(capsys: Capture, tmp_path: Path) -> None:
    outcome = run(capsys, "inspect", tmp_path / "absent", "--json")
    assert outcome.code == 2
    error = outcome.document["error"]
    assert error["type"] == "FolderError"
    assert error["exit_code"] == 2
    assert "absent" in error["message"]
    assert "onnxport convert" in error["hint"]
    assert "error: " in outcome.err


def test_usage_errors_with_json_are_one_document(capsys: Capture) -> None:
    outcome = run(capsys, "tasks", "--json", "--no-such")
    assert outcome.code == 2
    assert outcome.document["error"]["type"] == "UsageError"


def test_tasks_lists_every_row(capsys: Capture) -> None:
    text = run(capsys, "tasks").out
    assert all(task.name in text and task.summary in text for task in TASKS)


def test_tasks_as_json(capsys: Capture) -> None:
    rows = run(capsys, "tasks", "--json").document
    assert [row["name"] for row in rows] == [task.name for task in TASKS]
    assert rows[0].keys() == {"name", "aliases", "summary", "inputs", "outputs", "example"}


def test_a_mismatch_is_exit_1(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise VerificationError("off by 3.", hint="Try another --opset.")

    monkeypatch.setattr("onnxport.api.convert.convert", fail)
    outcome = run(capsys, "convert", "model", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err == "error: off by 3. Nothing was written.\nhint: Try another --opset.\n"


def test_an_unexpected_error_is_one_line_and_exit_2(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        print("a library said this")
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("onnxport.api.convert.convert", fail)
    outcome = run(capsys, "convert", "model", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "error: ZeroDivisionError: a",
        "hint: This is a bug in onnxport; run again with --verbose.",
    ]
    verbose = run(capsys, "convert", "model", tmp_path / "out", "--verbose")
    assert verbose.code == 2
    assert "a library said this" in verbose.err
    assert "Traceback" in verbose.err
    assert verbose.out == ""


def test_a_library_that_exits_does_not_choose_the_exit_code(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxport.api.convert.convert", lambda *_, **__: sys.exit(0))
    assert run(capsys, "convert", "model", tmp_path / "out").code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_exit_130(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("onnxport.api.convert.convert", lambda *_, **__: os.kill(os.getpid(), number))
    outcome = run(capsys, "convert", "model", tmp_path / "out", "--json")
    assert outcome.code == 130
    assert "interrupted: nothing was written" in outcome.err
    assert outcome.document["error"]["exit_code"] == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_a_library_turns_into_an_error_is_still_130(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr("onnxport.api.convert.convert", convert)
    assert run(capsys, "convert", "model", tmp_path / "out").code == 130


def test_a_signal_after_publication_does_not_say_that_nothing_was_written(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object, **__: object) -> None:
        (tmp_path / "out").mkdir()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("onnxport.api.convert.convert", convert)
    outcome = run(capsys, "convert", "model", tmp_path / "out")
    assert outcome.code == 130
    assert "nothing was written" not in outcome.err


def test_a_swallowed_signal_stops_the_next_step() -> None:
    with Interrupts() as interrupts:
        console = Console(io.StringIO(), check=interrupts.check)
        with pytest.raises(KeyboardInterrupt), console.step("one"):
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


def test_nobody_reads_stdout() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        outcome = run_apart("tasks", stdout=writing)
    finally:
        os.close(writing)
    assert outcome.code == 141
    assert outcome.err == ""


def test_stdout_is_closed() -> None:
    assert run_apart("tasks", before="sys.stdout = None").code == 0


def test_ascii_streams_take_every_message() -> None:
    outcome = run_apart("inspect", "größe", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert outcome.code == 2
    assert "gr\\xf6\\xdfe does not exist" in outcome.err


@pytest.mark.slow
def test_help_and_tasks_import_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "numpy", "tokenizers", "huggingface_hub"]
    block = f"sys.modules.update(dict.fromkeys({heavy}))"
    assert run_apart("--help", before=block).code == 0
    assert run_apart("tasks", before=block).code == 0
    assert run_apart("convert", "--help", before=block).code == 0
    assert run_apart("env", "list", before=block).code == 0


def test_env_alone_shows_its_commands(capsys: Capture) -> None:
    outcome = run(capsys, "env")
    assert outcome.code == 0
    assert all(name in outcome.out for name in ("create", "list", "remove"))


def test_env_list_of_nothing(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPORT_HOME", str(tmp_path / "home"))
    outcome = run(capsys, "env", "list")
    assert outcome.code == 0
    assert "hf-tensorflow" in outcome.out and "not created" in outcome.out
    (row,) = run(capsys, "env", "list", "--json").document
    assert (row["state"], row["python"], row["size_bytes"]) == ("not created", None, 0)
    assert not (tmp_path / "home").exists()


def test_inspect_of_a_folder(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    write_manifest(tmp_path, replace(make_manifest(), files={}))
    outcome = run(capsys, "inspect", tmp_path)
    assert outcome.code == 0
    document = run(capsys, "inspect", tmp_path, "--json").document
    assert document["graphs"][0]["verification"]["passed"] is True
    assert document["task"] == "fill-mask"


def test_tasks_lists_the_models_that_were_tried(capsys):
    found = run(capsys, "tasks", "--models", "--json").document
    assert found["pairs"] > 1000 and found["rows"]
    assert {row["status"] for row in found["rows"]} <= {
        "right", "restricted", "refused", "wrong", "unchecked", "torch fails", "not built"
    }  # fmt: skip
    one = next(row for row in found["rows"] if row["status"] == "right")
    assert one["model_type"] in run(capsys, "tasks", "--models").out
