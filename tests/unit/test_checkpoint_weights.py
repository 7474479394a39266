"""Weights that are missing, cut off, corrupt, or of another kind."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.errors import UntrustedCheckpointError
from onnxport.formats.safetensors_file import read_header
from tests.unit.checkpoints import CONFIG, WEIGHTS, fails, folder, hdf5_bytes, safetensors_bytes, write_json

__all__ = ["folder"]  # the fixture


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "cut off or empty"),
        (WEIGHTS[:4], "cut off or empty"),
        (WEIGHTS[:40], "its header alone is"),
        (WEIGHTS[:-10], "10 are missing"),
        (WEIGHTS + b"more", "4 bytes follow"),
        (b"PK\x03\x04" + bytes(100), "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n", "Git LFS pointer"),
        (struct.pack("<Q", 4) + b"{oh}", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
        (struct.pack("<Q", 8) + b'{"a":{}}', "'a' is incomplete"),
    ],
)
def test_damaged_safetensors(folder: Path, content: bytes, part: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    fails(folder, "model.safetensors", part)


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, "does not start where"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "has 8 bytes"),
        ({"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}, "incomplete"),
    ],
)
def test_header_that_contradicts_itself(folder: Path, entry: dict[str, Any], part: str) -> None:
    raw = json.dumps({"a": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(12))
    fails(folder, "'a'", part)


def test_header_places(folder: Path) -> None:
    header = read_header(folder / "model.safetensors")
    start = len(WEIGHTS) - 4 * (15 + 7)
    assert (header.tensors["a"].begin, header.tensors["a"].end) == (start, start + 60)
    assert header.tensors["b"].end == len(WEIGHTS)
    assert header.metadata == {"format": "pt"}


def test_dtype_is_that_of_most_bytes(folder: Path) -> None:
    mixed = safetensors_bytes({"a": ("F32", (2,)), "b": ("BF16", (100,))})
    (folder / "model.safetensors").write_bytes(mixed)
    assert inspect_checkpoint(folder).dtype == "bfloat16"


def test_tensorflow_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"a": ("F32", (2,))}, {"format": "tf"}))
    assert inspect_checkpoint(folder).framework == "tf"
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"a": ("F32", (2,))}, {"format": "flax"}))
    fails(folder, "weights for flax")


def shard(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def test_shards(folder: Path) -> None:
    shard(folder, {"a": "part-1.safetensors", "b": "part-2.safetensors"})
    fails(folder, "lacks 2 of its 2 weight files", "part-1.safetensors")
    (folder / "part-1.safetensors").write_bytes(safetensors_bytes({"a": ("F32", (3,))}))
    fails(folder, "lacks 1 of its 2 weight files", "part-2.safetensors")
    (folder / "part-2.safetensors").write_bytes(safetensors_bytes({"other": ("F32", (3,))}))
    fails(folder, "part-2.safetensors holds 'b'")
    (folder / "part-2.safetensors").write_bytes(safetensors_bytes({"b": ("F32", (3,))})[:-1])
    fails(folder, "part-2.safetensors is cut off")
    (folder / "part-2.safetensors").write_bytes(safetensors_bytes({"b": ("F32", (3,))}))
    assert len(inspect_checkpoint(folder).weight_files) == 2


def test_index_faults(folder: Path) -> None:
    shard(folder, {"a": "../outside.safetensors"})
    fails(folder, "outside of the folder")
    (folder / "model.safetensors.index.json").write_text("{")
    fails(folder, "model.safetensors.index.json", "line 1")
    (folder / "model.safetensors.index.json").write_text("{}")
    fails(folder, "without a weight_map")


def pickled(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(50))
    return file


def test_pickle_is_refused(folder: Path) -> None:
    file = pickled(folder)
    fails(folder, "only as pickle", "--allow-pickle", kind=UntrustedCheckpointError)
    found = inspect_checkpoint(folder, allow_pickle=True)
    assert (found.weights_format, found.weight_files) == ("pickle", (file,))
    file.write_bytes(file.read_bytes()[:-20])
    fails(folder, "cut off", allow_pickle=True)


def test_pickle_under_another_name(folder: Path) -> None:
    pickled(folder).rename(folder / "best.pt")
    fails(folder, "best.pt", kind=UntrustedCheckpointError)
    (folder / "best.pt").rename(folder / "training_args.bin")
    fails(folder, "no weights")


def test_safetensors_win_over_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"PK cut")
    assert inspect_checkpoint(folder).weights_format == "safetensors"


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("weights.safetensors", "another name (weights.safetensors)"),
        ("flax_model.msgpack", "only Flax weights"),
        ("model.gguf", "GGUF"),
    ],
)
def test_other_weights(folder: Path, file: str, part: str) -> None:
    (folder / "model.safetensors").rename(folder / file)
    fails(folder, part)


def test_weights_named_in_config(folder: Path) -> None:
    write_json(folder / "config.json", {**CONFIG, "transformers_weights": "best.safetensors"})
    fails(folder, "lacks best.safetensors")
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    assert inspect_checkpoint(folder).weight_files == (folder / "best.safetensors",)
    write_json(folder / "config.json", {**CONFIG, "transformers_weights": "../best.safetensors"})
    fails(folder, "outside of the folder")
    write_json(folder / "config.json", {**CONFIG, "transformers_weights": "best.bin"})
    (folder / "best.bin").write_bytes(b"x")
    fails(folder, "only as pickle", kind=UntrustedCheckpointError)


def test_tensorflow_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "tf_model.h5").write_bytes(hdf5_bytes())
    found = inspect_checkpoint(folder)
    assert (found.framework, found.weights_format) == ("tf", "h5")
