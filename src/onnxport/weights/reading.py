"""Read the values of a stored tensor: small tensors are copied, large ones memory-mapped."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from onnxport.errors import CheckpointError
from onnxport.weights.origins import Stored

# Up to this size, reading is cheaper than mapping (one copy against page faults, 11 and 2 GB/s), and the allocator
# reuses the memory. Above it, a copy would count as memory of this process.
_READ_UP_TO_BYTES = 8 * 2**20


# With shared mappings, mapping pays from this size on: a page is faulted in once, not copied at every use.
_SHARED_FROM_BYTES = 2**16


@dataclass
class _Mappings:
    """What `shared_mappings` keeps.

    Attributes:
        files: mapped files; None if the system refused to map the file.
        tensors: tensors in them.
    """

    files: dict[Path, mmap.mmap | None] = field(default_factory=dict)
    tensors: dict[Any, torch.Tensor] = field(default_factory=dict)


_mappings: ContextVar[_Mappings | None] = ContextVar("mappings", default=None)


@contextmanager
def shared_mappings() -> Iterator[None]:
    """Map each file once inside the block; a tensor that is read again is the same part of that mapping.

    Mapped pages belong to the page cache: the system can take them back when memory is short.
    """
    token = _mappings.set(_Mappings())
    try:
        yield
    finally:
        _mappings.reset(token)


def read(stored: Stored, like: torch.Tensor) -> torch.Tensor:
    """Return the values of a stored tensor: a copy of a small tensor, a private mapping of a large one.

    Args:
        stored: its place in a file.
        like: a tensor with its dtype and shape; its values are not used.

    Raises:
        CheckpointError: the file has become shorter since its header was read.
    """
    mappings = _mappings.get()
    if mappings is None:
        return _read(stored, like)
    key = (stored.path, stored.begin, like.dtype, tuple(like.shape))
    if key not in mappings.tensors:
        size = like.numel() * like.element_size()
        mapped = _map_file(stored.path, mappings) if size >= _SHARED_FROM_BYTES else None
        if mapped is not None and stored.begin % like.element_size() == 0:
            if stored.begin + size > len(mapped):
                raise _truncated(stored)
            mappings.tensors[key] = _tensor_in(mapped, like, stored.begin)
        else:
            values = _read(stored, like)
            if size <= _READ_UP_TO_BYTES:
                return values
            mappings.tensors[key] = values
    return mappings.tensors[key]


def _map_file(path: Path, mappings: _Mappings) -> mmap.mmap | None:
    """Return a private mapping of the file; None if the system refuses it (larger than its memory)."""
    if path not in mappings.files:
        try:
            with path.open("rb") as file:
                # Private: a model that writes to a parameter gets its own page, and the file does not change.
                mappings.files[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # reading the single tensor raises the error, if there is one
            mappings.files[path] = None
    return mappings.files[path]


def _tensor_in(mapped: mmap.mmap, like: torch.Tensor, offset: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = torch.frombuffer(mapped, dtype=like.dtype, offset=offset, count=like.numel())
    return flat.view(like.shape)


def _read(stored: Stored, like: torch.Tensor) -> torch.Tensor:
    count = like.numel()
    if count == 0:
        return torch.empty(like.shape, dtype=like.dtype)
    size = count * like.element_size()
    with stored.path.open("rb") as file:
        if size > _READ_UP_TO_BYTES and stored.begin % like.element_size() == 0:
            first = stored.begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            skipped = stored.begin - first
            try:
                mapped = mmap.mmap(file.fileno(), skipped + size, access=mmap.ACCESS_COPY, offset=first)
            except ValueError as error:  # the mapping is longer than the file
                raise _truncated(stored) from error
            return _tensor_in(mapped, like, skipped)
        values = torch.empty(like.shape, dtype=like.dtype)
        buffer = memoryview(values.reshape(-1).view(torch.uint8).numpy())
        file.seek(stored.begin)
        done = 0
        while done < size:
            got = file.readinto(buffer[done:])
            if not got:
                raise _truncated(stored)
            done += got
        return values


def _truncated(stored: Stored) -> CheckpointError:
    return CheckpointError(
        f"{stored.path.name} has become shorter while {stored.name} was read.",
        hint="Do not change the checkpoint while it is converted.",
    )
