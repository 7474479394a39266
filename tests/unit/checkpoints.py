"""Checkpoints made of bytes, for tests that import no framework."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.errors import CheckpointError
from onnxport.formats.hdf5_file import SIGNATURE

CONFIG = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}


def safetensors_bytes(tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of zeros; F32 has 4 bytes an element, everything else here 2."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    place = 0
    for name, (dtype, shape) in tensors.items():
        size = (4 if dtype == "F32" else 2) * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(place)


WEIGHTS = safetensors_bytes({"a": ("F32", (3, 5)), "b": ("F32", (7,))}, {"format": "pt"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "model.safetensors").write_bytes(WEIGHTS)
    return path


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def fails(path: str | Path, *parts: str, kind: type[CheckpointError] = CheckpointError, **kwargs: Any) -> str:
    """Inspect, expect an error whose text has all `parts`, and a hint."""
    with pytest.raises(kind) as caught:
        inspect_checkpoint(path, **kwargs)
    error = caught.value
    text = str(error)
    for part in parts:
        assert part in text, text
    assert error.hint
    return text


def hdf5_bytes(end: int | None = None, version: int = 0) -> bytes:
    """The first block of an HDF5 file, which says where the file ends; None: at its end."""
    if version < 2:
        head = bytes([version, 0, 0, 0, 0, 8, 8, 0]) + bytes(8) + (bytes(4) if version == 1 else b"")
    else:
        head = bytes([version, 8, 8, 0])
    content = SIGNATURE + head + bytes(16)
    return content + (len(content) + 72 if end is None else end).to_bytes(8, "little") + bytes(64)
