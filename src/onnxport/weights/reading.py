"""Read the bytes of a stored tensor: small ones are copied, large ones mapped."""

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

# Up to here reading is cheaper than mapping (one copy against page faults, 11 to 2 GB/s), and the
# allocator hands out the same memory again; from here on a copy would count as our memory.
_READ_UP_TO_BYTES = 8 * 2**20


# Where maps are kept they pay from here on: pages are faulted in once, and a copy would be made at every use.
_KEPT_FROM_BYTES = 2**16


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


def read(stored: Stored, like: torch.Tensor) -> torch.Tensor:
    """The numbers of a stored tensor: a copy of a small one, a private map of a large one.

    Args:
        stored: where they lie.
        like: of the dtype and shape that they have there; its own numbers are not looked at.

    Raises:
        CheckpointError: the file has become shorter since its header was read.
    """
    kept = _kept.get()
    if kept is None:
        return _read(stored, like)
    key = (stored.path, stored.begin, like.dtype, tuple(like.shape))
    if key not in kept.tensors:
        size = like.numel() * like.element_size()
        mapped = _whole(stored.path, kept) if size >= _KEPT_FROM_BYTES else None
        if mapped is not None and stored.begin % like.element_size() == 0:
            if stored.begin + size > len(mapped):
                raise _cut_off(stored)
            kept.tensors[key] = _tensor_in(mapped, like, stored.begin)
        else:
            values = _read(stored, like)
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
            except ValueError as error:  # longer than the file
                raise _cut_off(stored) from error
            return _tensor_in(mapped, like, skipped)
        values = torch.empty(like.shape, dtype=like.dtype)
        buffer = memoryview(values.reshape(-1).view(torch.uint8).numpy())
        file.seek(stored.begin)
        done = 0
        while done < size:
            got = file.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not got:
                raise _cut_off(stored)
            done += got
        return values


def _cut_off(stored: Stored) -> CheckpointError:
    return CheckpointError(
        f"{stored.path.name} has become shorter while it was read ({stored.name}).",
        hint="Nothing else may write to the checkpoint during a conversion.",
    )
