"""Faults of HDF5 files that can be told from their first bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.errors import CheckpointError
from onnxport.formats.hdf5_file import hdf5_fault
from tests.unit.checkpoints import hdf5_bytes, safetensors_bytes


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_whole_file_and_one_that_is_cut_off(tmp_path: Path, version: int) -> None:
    path = tmp_path / "tf_model.h5"
    size = len(hdf5_bytes(0, version))
    path.write_bytes(hdf5_bytes(size, version))
    assert hdf5_fault(path) is None
    path.write_bytes(hdf5_bytes(size + 1, version))
    assert hdf5_fault(path) == f"is cut off: {size} of {size + 1} bytes are there"
    path.write_bytes(hdf5_bytes(size, version)[:20])
    assert hdf5_fault(path) == "is cut off"


def test_what_is_no_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    for content, fault in ((b"", "is empty"), (b"PK..", "is no HDF5 file"), (b"version https://git-lfs", "is a Git")):
        path.write_bytes(content)
        assert str(hdf5_fault(path)).startswith(fault)


def test_which_weights_tensorflow_reads(tmp_path: Path) -> None:
    whole = len(hdf5_bytes(0))
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="only pickled ones of PyTorch"):
        inspect_checkpoint(tmp_path, framework="tf")
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes({"a": ("F32", (2,))}, {"format": "pt"}))
    assert inspect_checkpoint(tmp_path, framework="tf").framework == "pt"
    assert inspect_checkpoint(tmp_path, allow_pickle=True).framework == "pt"
    (tmp_path / "tf_model.h5").write_bytes(hdf5_bytes(whole))
    found = inspect_checkpoint(tmp_path, framework="tf")
    assert (found.framework, found.weights_format) == ("tf", "h5")  # its own before those of PyTorch
    assert inspect_checkpoint(tmp_path).framework == "pt"
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).unlink()
    assert inspect_checkpoint(tmp_path).framework == "tf"
    (tmp_path / "tf_model.h5").write_bytes(hdf5_bytes(whole + 1))
    with pytest.raises(CheckpointError, match="is cut off"):
        inspect_checkpoint(tmp_path)
