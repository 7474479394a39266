"""Reading back what was written, and the file that lists the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxport.artifact.manifest import WeightsChecksum
from onnxport.errors import FolderError, OutputError
from onnxport.serialization import checksums
from onnxport.serialization.checksums import sum_file
from onnxport.serialization.hashed_file import HashedFile
from onnxport.serialization.onnxfile import write_model
from onnxport.serialization.weights_file import read_weights, weights_text, write_weights
from onnxport.serialization.written_model import WeightRecord, WrittenModel, check_written, damaged
from tests.unit.graphs import Streaming, model_of, tensor

RNG = np.random.default_rng(4)


def write(folder: Path, *, external: bool = True, shard: int | None = 5000) -> WrittenModel:
    """Three weights, each in a shard of its own if external."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    weights = [
        tensor(rng.standard_normal(1000).astype(np.float32), "a"),
        Streaming(rng.standard_normal((20, 50)).astype(np.float32), "b", source="model.safetensors: b \N{SNOWMAN}"),
        tensor(rng.integers(0, 9, 600), "c"),
    ]
    return write_model(
        model_of(*weights), folder / "model.onnx", external=external, shard_bytes=shard if external else None
    )


# ---------------------------------------------------------------- reading back


@pytest.mark.parametrize("external", [False, True])
def test_what_was_written_is_right(external: bool, tmp_path: Path) -> None:
    check_written(tmp_path, write(tmp_path, external=external))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_wrong_bit_names_weight_and_file(which: int, external: bool, tmp_path: Path) -> None:
    written = write(tmp_path, external=external)
    record = written.weights[which]
    for place in (record.offset, record.offset + record.length - 1):
        content = bytearray((tmp_path / record.file).read_bytes())
        content[place] ^= 0x10
        (tmp_path / record.file).write_bytes(content)
        with pytest.raises(OutputError) as caught:
            check_written(tmp_path, written)
        assert f"{record.name!r} in {record.file} " in caught.value.message
        assert caught.value.hint
        assert list(damaged(tmp_path, written.weights)) == [record]
        content[place] ^= 0x10
        (tmp_path / record.file).write_bytes(content)
    check_written(tmp_path, written)


def test_files_that_are_cut_off_or_gone(tmp_path: Path) -> None:
    written = write(tmp_path)
    file = tmp_path / "model.onnx_data_1"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OutputError, match=r"'b' in model\.onnx_data_1"):
        check_written(tmp_path, written)
    file.unlink()
    with pytest.raises(OutputError, match=r"model\.onnx_data_1, which holds the weight 'b', is missing"):
        check_written(tmp_path, written)


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 310), st.integers(0, 310)), max_size=8),
       st.integers(1, 70))  # fmt: skip
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_any_ranges_in_one_pass(tmp_path: Path, content: bytes, ranges: list[tuple[int, int]], block: int) -> None:
    (tmp_path / "file").write_bytes(content)
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "BLOCK_BYTES", block)
        found = sum_file(tmp_path / "file", ranges, sha256=True, report=seen.append)
        assert sum_file(tmp_path / "file", ranges).sha256 is None
    assert found.size == len(content) == sum(seen)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.ranges == {
        (start, length): f"{zlib.crc32(content[start : start + length]):08x}"
        for start, length in ranges
        if start + length <= len(content)
    }


@pytest.mark.parametrize("sizes", [[], [0], [10, 2**18 - 1, 2**18, 3 * 2**20, 5]])
def test_hashes_are_those_of_the_file(sizes: list[int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old, and longer than what is new" * 9)
    with HashedFile(tmp_path / "file") as file:
        buffer = bytearray(max(sizes, default=0))
        for size in sizes:
            buffer[:size] = RNG.bytes(size)
            file.write(memoryview(buffer)[:size])
            buffer[:] = bytes(len(buffer))  # it belongs to us again
    content = (tmp_path / "file").read_bytes()
    assert len(content) == sum(sizes) == file.size
    assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_a_block_belongs_to_the_caller_again_when_it_is_written(tmp_path: Path) -> None:
    class Slow:
        """A hash that is behind the disk."""

        def __init__(self) -> None:
            self.inner = hashlib.sha256()

        def update(self, block: memoryview) -> None:
            time.sleep(0.05)
            self.inner.update(block)

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    buffer = bytearray(2**20)
    with HashedFile(tmp_path / "file") as file:
        file._sha256 = Slow()  # type: ignore[assignment]
        for number in range(3):
            buffer[:] = bytes([number]) * len(buffer)
            file.write(memoryview(buffer))
    assert file.sha256 == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with HashedFile(tmp_path / "x") as file, pytest.raises(OSError, match="No space"):
        with Path("/dev/full").open("wb", buffering=0) as full:
            file._file.close()
            file._file = full  # type: ignore[assignment]
            file.write(bytes(2**20))


# ---------------------------------------------------------------- the file of weights


def test_weights_file(tmp_path: Path) -> None:
    written = write(tmp_path / "onnx")
    summary = write_weights(tmp_path / "onnx" / "model.onnx", written, tmp_path)
    assert summary == WeightsChecksum("crc32", 3, 4000 + 4000 + 4800, "onnx/model.weights.json")
    text = (tmp_path / summary.file).read_text()
    assert text.isascii() and text.endswith("\n")
    data = json.loads(text)
    assert data["algorithm"] == "crc32"
    assert data["weights"][1] == {
        "name": "b", "dtype": "float32", "shape": [20, 50], "file": "model.onnx_data_1", "offset": 0, "length": 4000,
        "checksum": written.weights[1].checksum, "source": "model.safetensors: b \N{SNOWMAN}",
    }  # fmt: skip
    assert [(w["name"], w["source"]) for w in data["weights"]][::2] == [("a", None), ("c", None)]
    assert len(text.splitlines()) == 3 + 2
    assert read_weights(tmp_path / summary.file) == written.weights
    assert list(damaged(tmp_path / "onnx", read_weights(tmp_path / summary.file))) == []


def test_it_is_the_same_in_another_place(tmp_path: Path) -> None:
    texts = []
    for folder in ("one", "another/deeper"):
        written = write(tmp_path / folder / "onnx")
        write_weights(tmp_path / folder / "onnx" / "model.onnx", written, tmp_path / folder)
        texts.append((tmp_path / folder / "onnx" / "model.weights.json").read_bytes())
    assert texts[0] == texts[1]
    assert str(tmp_path).encode() not in texts[0]


def test_a_graph_without_data_files_has_none(tmp_path: Path) -> None:
    assert write_weights(tmp_path / "model.onnx", write(tmp_path, external=False), tmp_path) is None
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


RECORD = WeightRecord("w", "float32", (2, 3), "model.onnx_data", 4, 24, "0123abcd", None)


def test_no_weights() -> None:
    assert json.loads(weights_text([])) == {"algorithm": "crc32", "weights": []}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3), ("dtype", None), ("shape", "2"), ("shape", [2, "3"]), ("shape", [-1]), ("shape", [True]),
        ("offset", -1), ("offset", True), ("length", 1.5), ("checksum", 5), ("source", 5),
        ("file", "../secret"), ("file", "/etc/passwd"), ("file", ".."), ("file", ""), ("file", "a\\b"), ("file", "c:x"),
        ("extra", 1), ("name", ...),
    ],
)  # fmt: skip
def test_damaged_weights_files(field: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.weights.json"
    file.write_text(weights_text([RECORD, dataclasses.replace(RECORD, name="other")]))
    assert [record.name for record in read_weights(file)] == ["w", "other"]
    data = json.loads(file.read_text())
    if value is ...:
        del data["weights"][1][field]
    else:
        data["weights"][1][field] = value
    file.write_text(json.dumps(data))
    with pytest.raises(FolderError, match="weight number 1"):
        read_weights(file)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"weights": 3}', '{"algorithm": "md5", "weights": []}', "[" * 100_000]
)
def test_not_a_weights_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.weights.json").write_text(text)
    with pytest.raises(FolderError, match=r"x\.weights\.json") as caught:
        read_weights(tmp_path / "x.weights.json")
    assert caught.value.hint
    with pytest.raises(FolderError, match="cannot be read"):
        read_weights(tmp_path / "absent")
