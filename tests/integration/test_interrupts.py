"""Ctrl-C and SIGKILL at every step: the destination is untouched, and the next run cleans up.

Each case is a process that imports PyTorch. `make test` has an early step for one signal and the last for the others;
the sweep has all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnxport import convert
from tests.conversions import Conversions
from tests.files import files_of
from tests.sample import sampled

pytestmark = pytest.mark.integration

# A step's line appears when it is done, so the signal falls into the step that follows.
STEPS = ("Load", "Infer shapes", "Run the source model", "Export to opset", "Write", "Verify")


@pytest.fixture
def source(converted: Conversions) -> Path:
    return converted("bert-text-classification").source


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


@pytest.mark.parametrize("step", sampled(STEPS, "Write"))
def test_ctrl_c_leaves_nothing(step, source, tmp_path):
    process = start(source, tmp_path / "new" / "out")
    said = interrupt_after(process, step, signal.SIGINT)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []  # not even the parent that was made


@pytest.mark.timeout(900)
@pytest.mark.parametrize("steps", [pytest.param(STEPS, marks=pytest.mark.sweep, id="all"), ("Write",)])
def test_a_kill_leaves_the_old_folder_and_the_next_run_cleans_up(steps, source, converted, tmp_path):
    output = converted("bert-text-classification").copy(tmp_path / "out")
    before = files_of(output)
    for step in steps:
        process = start(source, output, "--overwrite", "--opset", "18")
        said = interrupt_after(process, step, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, said
        assert files_of(output) == before
    assert len(list(tmp_path.iterdir())) > 1  # what the killed processes left
    convert(None, source, output, opset=18, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert b'"opset": 18' in (output / "onnxport.json").read_bytes()


@pytest.mark.sweep
def test_sigterm_is_an_interrupt_too(source, tmp_path):
    process = start(source, tmp_path / "out")
    interrupt_after(process, "Infer shapes", signal.SIGTERM)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
