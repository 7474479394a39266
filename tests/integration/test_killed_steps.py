"""SIGKILL before each step of `quantize`, `optimize` and `target`: what is in place is whole, nothing is left over."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnxport
from onnxport import convert
from onnxport.errors import OutputError
from onnxport.variants import new_folder
from tests.conversions import Conversions
from tests.files import files_of
from tests.once import Once

pytestmark = pytest.mark.integration

# `make test` has every n-th step of these; the sweep has every step of all.
_SOME = 7
_KEPT = ["quantize int8", "optimize"]
_ALL = [*_KEPT, "quantize int4", "optimize --for cpu", "optimize --sizes", "target genai", "target transformers.js"]


def killed(command: str, path: Path, every: int) -> int:
    """Kill a command on `path`; the number of its steps."""
    words = [sys.executable, "-m", "tests.killed", command, str(path), str(every)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["problems"] == [], done.stderr[-3000:]
    steps: int = found["steps"]
    return steps


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("command", "every"),
    [
        *((command, _SOME) for command in _KEPT),
        *(pytest.param(command, 1, marks=pytest.mark.sweep) for command in _ALL),
    ],
)
def test_a_folder(command: str, every: int, converted: Conversions, tmp_path: Path) -> None:
    if command == "target genai":
        pytest.importorskip("onnxruntime_genai")
    # Rounded to int8, this decoder is too far from what it was.
    name, arguments = ("bert-text-classification", {}) if command in _KEPT else ("llama", {"tokenizer": "modernbert"})
    tiny = converted(name, arguments)
    (tmp_path / "work").mkdir()
    assert killed(command, tiny.copy(tmp_path / "work" / "out"), every) > 10


@pytest.mark.parametrize("command", [pytest.param("quantize int8", marks=pytest.mark.sweep), "optimize"])
def test_a_graph_with_data_files(command: str, once: Once, converted: Conversions, tmp_path: Path) -> None:
    """A second run replaces the graph of the first."""
    source = converted("bert-text-classification").source

    def make(root: Path) -> None:
        convert(None, source, root / "g" / "model.onnx", use_external_format=True)

    folder, _ = once("graph-with-data", make)
    (tmp_path / "work").mkdir()
    for file in (folder / "g").iterdir():
        (tmp_path / "work" / file.name).write_bytes(file.read_bytes())
    ending = {"optimize": "optimized", "quantize int8": "quantized"}[command]
    made = (onnxport.optimize if command == "optimize" else onnxport.quantize)(tmp_path / "work" / "model.onnx")
    assert made.name == f"model-{ending}.onnx"
    killed(command, tmp_path / "work" / "model.onnx", 1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    point = tmp_path / "disk"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(point)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


def fill(disk: Path, left: int) -> None:
    """Write a file that leaves `left` bytes."""
    with (disk / "filler").open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - left))


@pytest.mark.parametrize("command", ["quantize", "optimize"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_full_disk(
    command: str, when: str, disk: Path, converted: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in words, and the folder as it was."""
    folder = converted("llama", {"tokenizer": "modernbert"}).copy(disk / "out")
    before = files_of(folder)
    if when == "before":
        fill(disk, 2**17)
    else:  # the disk is filled after the check
        monkeypatch.setattr(new_folder, "check_free_space", lambda *_: fill(disk, 2**14))
    with pytest.raises(OutputError) as caught:
        getattr(onnxport, command)(folder)
    assert "space" in caught.value.message.lower() and caught.value.hint
    assert files_of(folder) == before and {entry.name for entry in disk.iterdir()} == {"out", "filler"}
