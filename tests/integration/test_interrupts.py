"""Ctrl-C and SIGKILL at every step: the destination is untouched, and the next run cleans up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save

pytestmark = pytest.mark.integration

# A step's line appears when it is done, so the signal falls into the step that follows.
STEPS = ("Load", "Infer shapes", "Run the source model", "Export to opset", "Write", "Verify")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return save("bert-text-classification", tmp_path_factory.mktemp("source") / "m")


def start(source: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "onnxport", "convert", str(source), str(output), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt_after(process: subprocess.Popen[str], step: str, number: int) -> str:
    """Send the signal once the step's line is on stderr; returns all of stderr."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if step in line:
            os.kill(process.pid, number)
            break
    said.append(process.stderr.read())
    process.wait(timeout=120)
    return "".join(said)


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_leaves_nothing(step, source, tmp_path):
    process = start(source, tmp_path / "new" / "out")
    said = interrupt_after(process, step, signal.SIGINT)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []  # not even the parent that was made


def test_kill_at_every_step_leaves_the_old_folder_and_the_next_run_cleans_up(source, tmp_path):
    output = tmp_path / "out"
    process = start(source, output)
    assert process.communicate(timeout=300)[0] and process.returncode == 0
    before = {file.relative_to(output): file.read_bytes() for file in output.rglob("*") if file.is_file()}
    for step in STEPS:
        process = start(source, output, "--overwrite", "--opset", "18")
        said = interrupt_after(process, step, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, said
        after = {file.relative_to(output): file.read_bytes() for file in output.rglob("*") if file.is_file()}
        assert after == before
    process = start(source, output, "--overwrite", "--opset", "18")
    assert process.communicate(timeout=300)[0] and process.returncode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert b'"opset": 18' in (output / "onnxport.json").read_bytes()


def test_sigterm_is_an_interrupt_too(source, tmp_path):
    process = start(source, tmp_path / "out")
    interrupt_after(process, "Infer shapes", signal.SIGTERM)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
