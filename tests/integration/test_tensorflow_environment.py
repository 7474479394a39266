"""TensorFlow checkpoints where PyTorch is: commands go to the managed environment by themselves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import onnxport
from onnxport.environments.places import HOME_VARIABLE
from onnxport.errors import MissingDependencyError
from onnxport.runtime.session import OnnxSession
from tests.integration.hf_tensorflow import TOLERANCE, VARIABLE, needs_tensorflow, plain_checkpoints
from tests.once import Once
from tests.unit.cli_runner import run, run_apart

pytestmark = [pytest.mark.integration, needs_tensorflow]
_COMMAND = "onnxport env create hf-tensorflow"


@pytest.fixture(scope="module")
def source(once: Once) -> Path:
    """A folder with the checkpoint "bert-ner" (tf_model.h5), and what its class makes of inputs in bert-ner.npz."""
    return plain_checkpoints(once)


def test_convert_and_verify(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, os.environ[VARIABLE])
    output = tmp_path / "output"
    done = run_apart("convert", source / "bert-ner", output, "--json")
    assert done.code == 0, done.err
    assert done.document["framework"] == "tf" and done.document["passed"]
    assert done.document["architecture"] == "TFBertForTokenClassification"
    titles = (
        "Load", "Infer shapes", "Run the source model", "Export", "Write", "Weights", "Verify", "Run the folder",
        "Publish",
    )  # fmt: skip
    steps = [line[2:] for line in done.err.splitlines() if line.startswith("✓ ")]
    assert len(steps) == len(titles)
    assert all(step.startswith(title) for step, title in zip(steps, titles, strict=True)), steps
    recorded = np.load(source / "bert-ner.npz")
    session = OnnxSession(output / "onnx" / "model.onnx")
    found = session.run({spec.name: recorded[f"in.{spec.name}"] for spec in session.inputs})["logits"]
    np.testing.assert_allclose(found, recorded["out.logits"], atol=TOLERANCE)

    same = run_apart("verify", output, "--against", source / "bert-ner")
    assert same.code == 0, same.err


def test_errors_come_through(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, os.environ[VARIABLE])
    outcome = run(capsys, "convert", source / "bert-ner", tmp_path / "output", "--task", "object-detection")
    assert outcome.code == 2
    assert "cannot do object-detection" in outcome.err and "Nothing was written" in outcome.err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [(), ("--framework", "tf")])
def test_without_the_environment_the_error_is_the_command_that_makes_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    outcome = run(capsys, "convert", source / "bert-ner", tmp_path / "output", *words)
    assert outcome.code == 2
    assert f"hint: {_COMMAND}" in outcome.err and "not there yet. Nothing was written" in outcome.err
    assert not (tmp_path / "output").exists() and not (tmp_path / "home").exists()


def test_a_pipeline_in_this_process_names_the_command_too(source: Path) -> None:
    for framework in (None, "tf"):
        with pytest.raises(MissingDependencyError) as caught:
            onnxport.pipeline("ner", source / "bert-ner", framework=framework)
        assert caught.value.hint == _COMMAND
