"""Make lazy tensors of weight files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import torch

from onnxport.checkpoints.stored_parts import PackedWeight
from onnxport.formats.safetensors_file import read_header
from onnxport.weights.dequantize import packed_record
from onnxport.weights.lazy import LazyTensor, in_memory
from onnxport.weights.origins import Stored
from onnxport.weights.pickles import load_tensors

# Type names of safetensors. Checkpoints with other types are loaded by transformers.
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


_FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu}


def lazy_state_dict(
    files: Iterable[Path], weights_format: str, prefix: str = "", packed: Collection[PackedWeight] = ()
) -> dict[str, LazyTensor] | None:
    """Return all tensors of a checkpoint by name, without reading them; None if torch lacks one of the types.

    Args:
        files: its weight files.
        weights_format: "safetensors", or "pickle": read with torch's restricted unpickler and memory-mapped (files
            older
            than torch 1.6 are read into memory).
        prefix: is left out of the names.
        packed: weights that are made of several stored tensors, which take the place of these.

    Raises:
        CheckpointError: a file is truncated or damaged.
        UntrustedCheckpointError: a pickle holds more than tensors.
    """
    if weights_format == "pickle":
        return {name: tensor for file in files for name, tensor in _pickled(file, prefix)}
    tensors: dict[str, LazyTensor] = {}
    for file in files:
        for name, stored in read_header(file).tensors.items():
            dtype = (_DTYPES | _FLOAT8 if packed else _DTYPES).get(stored.dtype)
            if dtype is None:
                return None
            like = torch.empty(stored.shape, dtype=dtype, device="meta")
            plain = name.removeprefix(prefix)
            tensors[plain] = LazyTensor(like, Stored(file, plain, stored.begin))
    made = {weight.name: packed_record(weight, tensors.__getitem__) for weight in packed}
    parts = {part for weight in packed for part in weight.parts.values()}
    return {name: tensor for name, tensor in tensors.items() if name not in parts} | made


def _pickled(file: Path, prefix: str) -> Iterator[tuple[str, LazyTensor]]:
    for full, tensor in load_tensors(file).items():
        name = full.removeprefix(prefix)
        yield name, in_memory(tensor, f"{file.name}: {name}")
