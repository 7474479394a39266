"""Checkpoints of TF classes, made and converted by processes of the managed environment that has those classes.

`make test` creates it in the folder that the variable ONNXPORT_TEST_HOME names.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
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
from tests.once import Once

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


def made(folder: Path, *names: str) -> dict[str, Any]:
    """A call that makes checkpoints of tests/tiny_tensorflow.py in `folder`, with what their classes make of inputs."""
    return {"folder": folder, "names": names}


def plain_checkpoints(once: Once) -> Path:
    """A folder with "bert-ner" (tf_model.h5) and "bert-fill-mask" (safetensors that TensorFlow wrote)."""
    folder, _ = once("tensorflow-checkpoints", lambda folder: call(made(folder, "bert-ner", "bert-fill-mask")))
    return folder


def call(*calls: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of calls in one process, as tests/tensorflow_conversions.py gives them."""
    plain = [{name: str(value) if isinstance(value, Path) else value for name, value in one.items()} for one in calls]
    found: list[dict[str, Any]] = json.loads(process("-m", "tests.tensorflow_conversions", json.dumps(plain)))
    return found


class Converted:
    """Checkpoints and the folders that they became, made when the first of them is asked for.

    Args:
        once: what a run of pytest shares.
        name: of a folder for all of it.
        kept: those that `make test` has; the others are made when one of them is asked for.
        tasks: name of the checkpoint to the task that is asked for.
    """

    def __init__(self, once: Once, name: str, tasks: dict[str, str], kept: Iterable[str] = ()) -> None:
        self._once, self._name = once, name
        self._kept = {name: tasks[name] for name in kept or tasks}
        self._others = {name: task for name, task in tasks.items() if name not in self._kept}

    def _group(self, name: str) -> tuple[Path, dict[str, dict[str, Any]]]:
        """The folder with checkpoint `name` and those made with it, and the results of their conversions."""
        kept = name in self._kept
        tasks = self._kept if kept else self._others
        return self._once(self._name if kept else f"{self._name}-sweep", lambda folder: self._made(folder, tasks))

    @staticmethod
    def _made(folder: Path, tasks: dict[str, str]) -> dict[str, dict[str, Any]]:
        _, *results = call(
            made(folder, *tasks),
            *(
                # Each case runs in TensorFlow without a compiled graph; Keras tests hold the further ones.
                {
                    "model": folder / name,
                    "output": folder / f"{name}-onnx",
                    "pipeline_name": task,
                    "verify_level": "quick",
                }
                for name, task in tasks.items()
            ),
        )
        return dict(zip(tasks, results, strict=True))

    def path(self, name: str) -> Path:
        folder, results = self._group(name)
        assert "error" not in results[name], results[name]
        return folder / f"{name}-onnx"

    def manifest(self, name: str) -> Manifest:
        return read_folder(self.path(name))

    def reference(self, name: str) -> dict[str, Any]:
        return dict(np.load(self._group(name)[0] / f"{name}.npz"))

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
