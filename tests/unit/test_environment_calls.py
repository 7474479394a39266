"""Calls into an environment that need no model: errors, crashes, what can be sent; and the messages themselves."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from onnxport._worker import Messages
from onnxport.artifact.results import Conversion, VerifiedFolder
from onnxport.cli.console import Console
from onnxport.environments import call_in
from onnxport.environments.call import Relay
from onnxport.environments.places import folder_of, python_of
from onnxport.environments.wire import error_message, error_of, plain_arguments, result_message, result_of
from onnxport.errors import (
    FolderError,
    ManagedEnvironmentError,
    MissingDependencyError,
    OnnxPortError,
    TaskError,
    UsageError,
    VerificationError,
)
from onnxport.progress import Silent
from onnxport.specs import Verification
from onnxport.system.output_capture import capture_process
from tests.unit.environment_samples import this_python
from tests.unit.sample_manifest import make_manifest


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This Python as the environment `stand-in`; the folder with its pid."""
    this_python("stand-in", tmp_path / "environment", monkeypatch)
    return tmp_path / "environment"


def test_an_error_comes_back_as_it_was(stand_in: Path, tmp_path: Path) -> None:
    arguments = {"framework": None, "model": tmp_path, "output": tmp_path / "out", "pipeline_name": "fil-mask"}
    with pytest.raises(TaskError) as caught:
        call_in("stand-in", "convert", arguments, Silent())
    assert type(caught.value) is TaskError
    assert "Did you mean 'fill-mask'?" in str(caught.value.hint)


def test_relative_paths_mean_the_same_there(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FolderError, match=r"^absent does not exist") as caught:
        call_in("stand-in", "verify", {"path": "absent"}, Silent())
    assert caught.value.hint == "Make one with: onnxport convert MODEL OUTPUT"


def test_an_unexpected_exception_names_itself_and_its_traceback_is_kept(stand_in: Path) -> None:
    with capture_process() as said, pytest.raises(ManagedEnvironmentError) as caught:
        call_in("stand-in", "convert", {"framework": None}, Silent())
    assert caught.value.message.startswith("In the environment stand-in: TypeError: convert() missing")
    assert "This is a bug in onnxport" in str(caught.value.hint)
    assert "Traceback" in said.getvalue()


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "memory runs out"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_crash_is_told(stand_in: Path, number: int, words: str) -> None:
    begin = json.dumps({"event": "begin", "title": "Load"})
    python_of(folder_of("stand-in")).write_text(f"#!/bin/sh\necho '{begin}'\nkill -{number:d} $$\n", encoding="utf-8")
    with pytest.raises(ManagedEnvironmentError, match=r"before it gave a result\.") as caught:
        call_in("stand-in", "verify", {"path": "x"}, Silent())
    assert words in caught.value.message
    assert "stand-in" in caught.value.message


class Stopping(Silent):
    """A user who presses Ctrl-C at the first step."""

    def step(self, title: str) -> NoReturn:
        raise KeyboardInterrupt


def test_a_worker_that_does_not_stop_is_killed_with_its_children(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxport.environments.call.GRACE_SECONDS", 0.3)
    python = python_of(folder_of("stand-in"))
    begin = json.dumps({"event": "begin", "title": "Load"})
    python.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\necho '{begin}'\nwait\n", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        call_in("stand-in", "verify", {"path": "x"}, Stopping())
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_the_last_line_before_the_end_is_told(stand_in: Path, tmp_path: Path) -> None:
    python = python_of(folder_of("stand-in"))
    python.write_text("#!/bin/sh\necho something went wrong >&2\necho\nexit 3\n", encoding="utf-8")
    with pytest.raises(
        ManagedEnvironmentError, match=r"ended with exit code 3.*printed: something went wrong"
    ) as caught:
        call_in("stand-in", "verify", {"path": "x"}, Silent())
    assert caught.value.hint == "onnxport env remove stand-in, and create it again."


def test_what_is_printed_before_the_worker_has_its_streams_is_no_message(stand_in: Path, tmp_path: Path) -> None:
    python = python_of(folder_of("stand-in"))
    python.write_text(
        "#!/bin/sh\necho banner\n" + python.read_text(encoding="utf-8").partition("\n")[2], encoding="utf-8"
    )
    with capture_process() as said, pytest.raises(FolderError):
        call_in("stand-in", "verify", {"path": tmp_path / "absent"}, Silent())
    assert "banner" in said.getvalue()


def test_live_objects_cannot_be_sent(stand_in: Path) -> None:
    arguments = {"framework": "tf", "model": "m", "output": "o", "tokenizer": [Silent()]}
    with pytest.raises(UsageError, match="`tokenizer` is an object of class Silent") as caught:
        call_in("stand-in", "convert", arguments, Silent())
    assert caught.value.hint
    assert not (stand_in / "pid").exists()


def test_only_some_functions_can_be_called(stand_in: Path) -> None:
    with pytest.raises(UsageError, match="`pipeline` cannot be called"):
        call_in("stand-in", "pipeline", {}, Silent())


def test_an_environment_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPORT_HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError) as caught:
        call_in("hf-tensorflow", "verify", {"path": "x"}, Silent())
    assert caught.value.hint == "onnxport env create hf-tensorflow"
    with pytest.raises(UsageError):
        call_in("../hf-tensorflow", "verify", {"path": "x"}, Silent())


def _sent(message: dict[str, object]) -> dict[str, object]:
    """Through the pipe."""
    received: dict[str, object] = json.loads(json.dumps(message))
    return received


def test_arguments_are_plain() -> None:
    given = {"a": Path("x"), "b": (1, 2.5, None, True), "c": {"d": [Path("y")]}}
    assert plain_arguments("e", "convert", given) == {"a": "x", "b": [1, 2.5, None, True], "c": {"d": ["y"]}}


def test_results_survive_the_pipe() -> None:
    manifest = make_manifest()
    found = manifest.components[0].verification
    assert found is not None
    timings = {"load": 1.5, "export": 3.5}  # in the order of the steps
    conversion = Conversion(Path("o"), manifest, (Path("o/a"), Path("o/b")), timings, {"load": 2.0}, 10**9)
    received = result_of(_sent(result_message(conversion)))
    assert received == conversion
    assert list(received.timings) == ["load", "export"]
    folder = VerifiedFolder(Path("o"), 3, {"model": found, "other": None}, True, ("a note",))
    assert result_of(_sent(result_message(folder))) == folder


def test_errors_survive_the_pipe() -> None:
    found = make_manifest().components[0].verification
    assert found is not None
    case = found.cases[0]
    bad = replace(found, cases=(replace(case, outputs=(replace(case.outputs[0], max_abs_error=math.inf),)),))
    error = error_of(_sent(error_message(VerificationError("differs", hint="h", verification=bad))))
    assert isinstance(error, VerificationError)
    assert isinstance(error.verification, Verification)
    assert (error.message, error.hint, error.verification, error.exit_code) == ("differs", "h", bad, 1)


def test_an_error_of_an_unknown_class_is_its_nearest_known_one() -> None:
    class Special(FolderError):
        pass

    assert type(error_of(_sent(error_message(Special("m"))))) is FolderError
    assert type(error_of(_sent(error_message(OnnxPortError("m"))))) is OnnxPortError


def test_steps_look_as_they_do_in_process() -> None:
    stream = io.StringIO()
    with Relay(Console(stream)) as relay:
        for message in (
            {"event": "begin", "title": "Load"},
            {"event": "advance", "done": 1, "total": 2},
            {"event": "end", "summary": "a model", "ok": True},
            {"event": "note", "text": "read this"},
            {"event": "begin", "title": "Write"},
        ):
            assert relay.handle(message)
        assert not relay.handle({"event": "result"})
    lines = stream.getvalue().splitlines()
    assert lines[0].split()[1:4] == ["Load", "a", "model"]
    assert lines[1] == "note: read this"
    assert lines[2].startswith(("✗ Write", "failed Write"))  # it was still open when the worker ended


def test_a_message_that_was_cut_off_does_not_spoil_the_next_one() -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"event": "no')
    Messages(writing).send({"event": "interrupted"})
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert json.loads(lines.read().splitlines()[-1]) == {"event": "interrupted"}


def test_a_worker_whose_caller_is_gone_stops() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(KeyboardInterrupt):
        Messages(writing).send({"event": "note", "text": "x"})
    os.close(writing)
