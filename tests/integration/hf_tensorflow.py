"""Checkpoints of TF classes, made and converted by processes of the managed environment that has those classes.

`make test` creates it in the folder that the variable ONNXPORT_TEST_HOME names.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport.artifact.folder import read_folder
from onnxport.artifact.manifest import Manifest
from onnxport.environments import require
from onnxport.environments.places import HOME_VARIABLE
from onnxport.loading.resolve import HF_TENSORFLOW
from onnxport.runtime.session import OnnxSession

VARIABLE = "ONNXPORT_TEST_HOME"
ROOT = Path(__file__).parents[2]
needs_tensorflow = pytest.mark.skipif(
    VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder with the environment {HF_TENSORFLOW}"
)
TOLERANCE = 1e-4


def python() -> Path:
    """The interpreter of the environment. One that is not whole fails the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, os.environ[VARIABLE])
        return require(HF_TENSORFLOW)


def process(*arguments: str) -> str:
    """What a Python process of the environment printed; its stderr must be empty of errors."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PYTHONNOUSERSITE": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
    }  # fmt: skip
    done = subprocess.run(
        [str(python()), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def make(folder: Path, *names: str) -> None:
    """Checkpoints of tests/tiny_tensorflow.py in `folder`, with what their classes make of inputs."""
    process("-m", "tests.tiny_tensorflow", str(folder), *names)


def call(*calls: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of conversions, as tests/tensorflow_conversions.py gives them."""
    plain = [{name: str(value) if isinstance(value, Path) else value for name, value in one.items()} for one in calls]
    found: list[dict[str, Any]] = json.loads(process("-m", "tests.tensorflow_conversions", json.dumps(plain)))
    return found


class Converted:
    """Checkpoints and the folders that they became.

    Args:
        factory: of pytest; processes of one run of pytest share what is made.
        name: of a folder for all of it.
        tasks: name of the checkpoint to the task that is asked for.
    """

    def __init__(self, factory: pytest.TempPathFactory, name: str, tasks: dict[str, str]) -> None:
        base = factory.getbasetemp()
        self.folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
        self.folder.mkdir(exist_ok=True)
        done = self.folder / "results.json"
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.is_file():
                done.write_text(json.dumps(self._made(tasks)))
        self.results: dict[str, dict[str, Any]] = json.loads(done.read_text())

    def _made(self, tasks: dict[str, str]) -> dict[str, dict[str, Any]]:
        make(self.folder, *tasks)
        results = call(
            *(
                {"model": self.folder / name, "output": self.folder / f"{name}-onnx", "pipeline_name": task}
                for name, task in tasks.items()
            )
        )
        return dict(zip(tasks, results, strict=True))

    def path(self, name: str) -> Path:
        assert "error" not in self.results[name], self.results[name]
        return self.folder / f"{name}-onnx"

    def manifest(self, name: str) -> Manifest:
        return read_folder(self.path(name))

    def reference(self, name: str) -> dict[str, Any]:
        return dict(np.load(self.folder / f"{name}.npz"))

    def axes(self, name: str, component: int = 0) -> dict[str, tuple[int | str, ...]]:
        part = self.manifest(name).components[component]
        return {spec.name: tuple(spec.axes) for spec in (*part.inputs, *part.outputs)}

    def require_reference_numbers(self, name: str, graph: str = "model") -> None:
        """The graph makes of the recorded inputs what the TF class made of them."""
        recorded = self.reference(name)
        session = OnnxSession(self.path(name) / "onnx" / f"{graph}.onnx")
        known = {spec.name for spec in session.inputs}
        given = {key[3:]: value for key, value in recorded.items() if key.startswith("in.") and key[3:] in known}
        found = session.run(given)
        compared = [key for key in found if f"out.{key}" in recorded]
        assert compared
        for key in compared:
            wanted = recorded[f"out.{key}"]
            assert found[key].shape == wanted.shape
            np.testing.assert_allclose(found[key], wanted, atol=TOLERANCE * max(1.0, float(np.abs(wanted).max())))
