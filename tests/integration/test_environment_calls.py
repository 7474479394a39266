"""Conversions through the pipes of a managed environment; this interpreter stands in for the other one."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxport.artifact.folder import read_folder
from onnxport.artifact.results import Conversion
from onnxport.cli.console import Console
from onnxport.environments import call_in
from onnxport.errors import VerificationError
from onnxport.progress import Silent
from tests.conversions import Conversions
from tests.tiny import save
from tests.unit.environment_samples import this_python

pytestmark = pytest.mark.integration


@pytest.fixture
def source(converted: Conversions) -> Path:
    return converted("bert-text-classification").source


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    this_python("stand-in", tmp_path / "environment", monkeypatch)
    return tmp_path / "environment"


def test_a_conversion_is_that_of_a_call_in_process(converted: Conversions, stand_in: Path, tmp_path: Path) -> None:
    here, said = converted("bert-text-classification"), io.StringIO()
    arguments = {"framework": None, "model": here.source, "output": tmp_path / "there" / "out"}
    result = call_in("stand-in", "convert", arguments, Console(said))
    expected = here.conversion
    assert isinstance(result, Conversion)
    assert result.passed
    assert result.path == tmp_path / "there" / "out"
    assert result.manifest == expected.manifest == read_folder(result.path)
    assert [file.name for file in result.files] == [file.name for file in expected.files]
    assert result.timings.keys() == expected.timings.keys()
    assert result.peak_memory_bytes > 10_000_000
    steps = [line.split("  ")[0].rstrip() for line in said.getvalue().splitlines()]
    assert all(any(step.endswith(title) for step in steps) for title in ("Load", "Infer shapes", "Publish")), steps
    assert "text-classification" in said.getvalue()


@pytest.mark.sweep
def test_a_folder_that_is_not_the_source_s(converted: Conversions, stand_in: Path, tmp_path: Path) -> None:
    converted("bert-text-classification").copy(tmp_path / "out")
    other = save("bert-text-classification", tmp_path / "other", seed=1)
    found = call_in("stand-in", "verify", {"path": tmp_path / "out"}, Silent())
    assert found.ok
    assert found.verifications == {"model": None}
    with pytest.raises(VerificationError) as caught:
        call_in("stand-in", "verify", {"path": tmp_path / "out", "against": other}, Silent())
    assert caught.value.verification is not None
    assert not caught.value.verification.passed
    assert "model disagrees with the source model" in caught.value.message


_PROGRAM = """
import sys
from pathlib import Path
from onnxport.cli.console import Console
from onnxport.cli.interrupts import Interrupts
from onnxport.environments import ENVIRONMENTS, Definition, call_in
ENVIRONMENTS["stand-in"] = Definition("stand-in", "Tests", Path(sys.argv[3]), (3, 11), (3, 99), 0, 0, "")
try:
    with Interrupts():
        arguments = {"framework": None, "model": sys.argv[1], "output": sys.argv[2]}
        call_in("stand-in", "convert", arguments, Console(sys.stderr))
except KeyboardInterrupt:
    sys.exit(130)
"""


def _start(source: Path, output: Path, stand_in: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _PROGRAM, str(source), str(output), str(stand_in / "lock.txt")]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def _read_until(process: subprocess.Popen[str], step: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if step in line:
            return


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("step", "number"),
    [
        pytest.param("Load", signal.SIGINT, marks=pytest.mark.sweep),
        pytest.param("Infer shapes", signal.SIGTERM, marks=pytest.mark.sweep),  # test_interrupts.py has it too
        ("Write", signal.SIGINT),
    ],
)
def test_ctrl_c_ends_the_worker_first_and_leaves_nothing(
    source: Path, stand_in: Path, tmp_path: Path, step: str, number: signal.Signals
) -> None:
    process = _start(source, tmp_path / "new" / "out", stand_in)
    _read_until(process, step)
    process.send_signal(number)
    process.wait(60)
    assert process.returncode == 130
    assert not _alive(int((stand_in / "pid").read_text()))
    assert not (tmp_path / "new").exists()


def test_a_worker_whose_caller_was_killed_cleans_up_and_ends(source: Path, stand_in: Path, tmp_path: Path) -> None:
    process = _start(source, tmp_path / "new" / "out", stand_in)
    _read_until(process, "Write")
    process.kill()
    process.wait()
    pid = int((stand_in / "pid").read_text())
    limit = time.monotonic() + 60
    while _alive(pid) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not _alive(pid)
    assert not (tmp_path / "new").exists()
