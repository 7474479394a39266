"""SIGKILL before each step of `quantize`, `optimize` and `target`: what is in place is whole, nothing is left over."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxport
from onnxport.errors import OutputError
from onnxport.variants import new_folder
from tests.conversions import Conversions
from tests.files import files_of

pytestmark = pytest.mark.integration

# `make test` has every n-th step of these; the sweep has every step of all.
_SOME = 7
_ENCODERS = ["quantize int8", "optimize"]
_KEPT = ["optimize"]
_ALL = [*_ENCODERS, "quantize int4", "optimize --for cpu", "optimize --sizes", "target genai", "target transformers.js"]


def killed(command: str, path: Path, every: int) -> list[str]:
    """Kill a command on `path` before each step; what is there in the end."""
    words = [sys.executable, "-m", "tests.killed", command, str(path), str(every)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["problems"] == [], done.stderr[-3000:]
    assert found["steps"] > 5
    left: list[str] = found["left"]
    return left


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
    name, arguments = (
        ("bert-text-classification", {}) if command in _ENCODERS else ("llama", {"tokenizer": "modernbert"})
    )
    tiny = converted(name, arguments)
    (tmp_path / "work").mkdir()
    left = killed(command, tiny.copy(tmp_path / "work" / "out"), every)
    assert left == (["js", "out"] if command.endswith(".js") else ["out"])


@pytest.mark.sweep
@pytest.mark.parametrize("command", ["quantize int8", "optimize"])
def test_a_graph_with_data_files(command: str, tmp_path: Path) -> None:
    """Later runs replace the graph of earlier ones."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[rows, 64] x) => (float[rows, 64] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }"""
    )
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    (tmp_path / "work").mkdir()
    graph = tmp_path / "work" / "model.onnx"
    onnx.save(model, graph, save_as_external_data=True, location="model.onnx_data")
    ending = {"optimize": "optimized", "quantize int8": "quantized"}[command]
    left = killed(command, graph, 1)
    data = [f"model-{ending}.onnx_data"] if command == "optimize" else []
    assert [name.removesuffix("_1") for name in left] == [
        f"model-{ending}.onnx",
        *data,
        "model.onnx",
        "model.onnx_data",
    ]


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
