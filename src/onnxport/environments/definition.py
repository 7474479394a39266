"""What a managed environment is: its name, its pinned packages, and how to tell that it works. Data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onnxport.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Definition:
    """One managed environment.

    Attributes:
        name: what `onnxport env create` takes; also the name of its folder.
        purpose: what it is for, in the plural: messages say that these need it.
        lock: a requirements file with every package, dependencies included, at one version.
        python_from, python_below: the versions of Python that all these packages have wheels for.
        disk_bytes: what the environment takes on disk.
        download_bytes: what pip needs beside that while it installs, for the wheels.
        check: Python code that fails where the environment is of no use.
    """

    name: str
    purpose: str
    lock: Path
    python_from: tuple[int, int]
    python_below: tuple[int, int]
    disk_bytes: int
    download_bytes: int
    check: str

    def packages(self) -> list[str]:
        """The packages of the lock with their versions, such as "numpy==2.3.1", without hashes and comments."""
        lines = (line.partition("#")[0].strip() for line in self.lock.read_text(encoding="utf-8").splitlines())
        return [line.rstrip("\\ ") for line in lines if line and not line.startswith("--hash")]

    def pins(self) -> str:
        """The sha256 of the packages: another one is another environment."""
        return hashlib.sha256("\n".join(sorted(self.packages())).encode()).hexdigest()

    def takes_python(self, version: tuple[int, int]) -> bool:
        """Whether the packages have wheels for this Python."""
        return self.python_from <= version < self.python_below


_DEFINITIONS = (
    Definition(
        name="hf-tensorflow",
        purpose="TensorFlow checkpoints of Hugging Face (tf_model.h5)",
        lock=Path(__file__).with_name("hf-tensorflow.txt"),
        python_from=(3, 11),  # onnxport's own; tensorflow 2.21 has wheels for 3.10 to 3.13
        python_below=(3, 14),
        disk_bytes=2_700_000_000,
        download_bytes=700_000_000,
        check="import tf2onnx, onnxport; from transformers import TFAutoModel, TFBertModel",
    ),
)
ENVIRONMENTS: dict[str, Definition] = {definition.name: definition for definition in _DEFINITIONS}


def find_definition(name: str) -> Definition:
    """The environment called `name`.

    Raises:
        UsageError: there is none; suggests one.
    """
    if name not in ENVIRONMENTS:
        raise UsageError(
            f"onnxport manages no environment called {name!r}. Nothing was done.",
            hint=did_you_mean(name, ENVIRONMENTS),
        )
    return ENVIRONMENTS[name]
