"""Tensors in weight files as lazy tensors, and reading them."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from onnxport.errors import CheckpointError
from onnxport.safetensors_file import read_header
from onnxport.weights.lazy import LazyTensor, Stored, hold
from onnxport.weights.pickles import load_tensors

# safetensors' names. A type that is missing here is for the plain loader.
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
# Up to here reading is cheaper than mapping (one copy against page faults, 11 to 2 GB/s), and the
# allocator hands out the same memory again; from here on a copy would count as our memory.
_READ_UP_TO_BYTES = 8 * 2**20
# Where maps are kept they pay from here on: pages are faulted in once, and a copy would be made at every use.
_KEPT_FROM_BYTES = 2**16


def lazy_state_dict(files: Iterable[Path], weights_format: str) -> dict[str, LazyTensor] | None:
    """All tensors of a checkpoint by name, unread; None where a type is not one of torch's plain ones.

    Args:
        files: its weight files.
        weights_format: "safetensors", or "pickle": read with torch's restricted unpickler, the
            numbers mapped (files older than torch 1.6 are read whole).

    Raises:
        CheckpointError: a file is cut off or not what it says.
        UntrustedCheckpointError: a pickle holds more than tensors.
    """
    if weights_format == "pickle":
        return {name: tensor for file in files for name, tensor in _pickled(file)}
    tensors: dict[str, LazyTensor] = {}
    for file in files:
        for name, stored in read_header(file).tensors.items():
            dtype = _DTYPES.get(stored.dtype)
            if dtype is None:
                return None
            like = torch.empty(stored.shape, dtype=dtype, device="meta")
            tensors[name] = LazyTensor(like, Stored(file, name, stored.begin))
    return tensors


def _pickled(file: Path) -> Iterator[tuple[str, LazyTensor]]:
    for name, tensor in load_tensors(file).items():
        yield name, hold(tensor, f"{file.name}: {name}")


@dataclass
class _Kept:
    """What `maps_kept` keeps: files as they are mapped (None: refused), and tensors in them."""

    files: dict[Path, mmap.mmap | None] = field(default_factory=dict)
    tensors: dict[Any, torch.Tensor] = field(default_factory=dict)


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def maps_kept() -> Iterator[None]:
    """Within it a file is mapped once, and a tensor that is read again is the same part of that map.

    Mapped pages are the page cache's: the system takes them back when memory is short.
    """
    token = _kept.set(_Kept())
    try:
        yield
    finally:
        _kept.reset(token)


def read(tensor: LazyTensor) -> torch.Tensor:
    """The numbers of a stored tensor: a copy of a small one, a private map of a large one.

    Raises:
        CheckpointError: the file has become shorter since its header was read.
    """
    origin = tensor.origin
    assert isinstance(origin, Stored)
    kept = _kept.get()
    if kept is None:
        return _read(tensor, origin)
    key = (origin.path, origin.begin, tensor.dtype, tuple(tensor.shape))
    if key not in kept.tensors:
        size = tensor.numel() * tensor.element_size()
        mapped = _whole(origin.path, kept) if size >= _KEPT_FROM_BYTES else None
        if mapped is not None and origin.begin % tensor.element_size() == 0:
            if origin.begin + size > len(mapped):
                raise _cut_off(origin)
            kept.tensors[key] = _tensor_in(mapped, tensor, origin.begin)
        else:
            values = _read(tensor, origin)
            if size <= _READ_UP_TO_BYTES:
                return values
            kept.tensors[key] = values
    return kept.tensors[key]


def _whole(path: Path, kept: _Kept) -> mmap.mmap | None:
    """The whole file as one private map; None where the system refuses one (larger than its memory)."""
    if path not in kept.files:
        try:
            with path.open("rb") as file:
                # Private: a model that writes into a parameter gets its own page, never the file's.
                kept.files[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # reading the single tensor says what is wrong, if anything is
            kept.files[path] = None
    return kept.files[path]


def _tensor_in(mapped: mmap.mmap, tensor: LazyTensor, offset: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = torch.frombuffer(mapped, dtype=tensor.dtype, offset=offset, count=tensor.numel())
    return flat.view(tensor.shape)


def _read(tensor: LazyTensor, origin: Stored) -> torch.Tensor:
    count = tensor.numel()
    if count == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    size = count * tensor.element_size()
    with origin.path.open("rb") as file:
        if size > _READ_UP_TO_BYTES and origin.begin % tensor.element_size() == 0:
            first = origin.begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            skipped = origin.begin - first
            try:
                mapped = mmap.mmap(file.fileno(), skipped + size, access=mmap.ACCESS_COPY, offset=first)
            except ValueError as error:  # longer than the file
                raise _cut_off(origin) from error
            return _tensor_in(mapped, tensor, skipped)
        values = torch.empty(tensor.shape, dtype=tensor.dtype)
        buffer = memoryview(values.reshape(-1).view(torch.uint8).numpy())
        file.seek(origin.begin)
        done = 0
        while done < size:
            got = file.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not got:
                raise _cut_off(origin)
            done += got
        return values


def _cut_off(origin: Stored) -> CheckpointError:
    return CheckpointError(
        f"{origin.path.name} has become shorter while it was read ({origin.name}). Nothing was written.",
        hint="Nothing else may write to the checkpoint during a conversion.",
    )
