"""The header of a safetensors file, read and checked without loading any tensor.

A cut-off download or a Git LFS pointer is found here in a millisecond instead of after the
import of a framework, and the offsets tell an exporter where every tensor lies in the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxport.errors import CheckpointError
from onnxport.formats.json_file import parse_json

# A larger number means that the first eight bytes are not a length. The format's own limit is 100 MB, of which objects
# in memory would take 20 times as much; 100,000 tensors take 12 MB.
_MAX_HEADER_BYTES = 2**26
_LENGTH = struct.Struct("<Q")
_LFS_POINTER = b"version https://git-lfs"

# Bytes per element; a type that is missing here is newer than this table and is not size-checked.
ITEM_SIZES: dict[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

# numpy/torch spelling of the floating point types.
FLOAT_NAMES: dict[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_FETCH_AGAIN = "Copy or download the file again."


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: bytes `begin` to `end`, counted from the start of the file."""

    dtype: str  # safetensors spelling: "F32", "BF16", "I64"
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a file says about itself; `tensors` maps a name to its place."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def main_dtype(self) -> str | None:
        """The floating point type that most bytes have ("float32", "bfloat16"), or None."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            name = FLOAT_NAMES.get(tensor.dtype)
            if name is not None:
                sizes[name] = sizes.get(name, 0) + tensor.end - tensor.begin
        return max(sizes, key=lambda name: sizes[name]) if sizes else None


def read_header(path: Path) -> SafetensorsHeader:
    """The header of `path`, checked against the size of the file.

    Raises:
        CheckpointError: the file is a Git LFS pointer, cut off, or not a safetensors file; a
            tensor's bytes are not where they should be.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(max(_LENGTH.size, len(_LFS_POINTER)))
        if start.startswith(_LFS_POINTER):
            raise _broken(path, "is a Git LFS pointer, not the weights", "Run `git lfs pull` in the folder.")
        if size < _LENGTH.size:
            raise _broken(path, f"is cut off or empty: {size} bytes, too few for a safetensors header")
        (length,) = _LENGTH.unpack(start[: _LENGTH.size])
        if length > _MAX_HEADER_BYTES or start[_LENGTH.size : _LENGTH.size + 1] not in (b"{", b""):
            raise _broken(path, "is not a safetensors file: it does not start with the length of its header")
        if length > size - _LENGTH.size:
            raise _broken(path, f"is cut off: its header alone is {length} bytes, the file has {size}")
        file.seek(_LENGTH.size)
        raw = file.read(length)
    return _parse(path, raw, _LENGTH.size + length, size)


def _parse(path: Path, raw: bytes, data_start: int, size: int) -> SafetensorsHeader:
    """Turn the JSON header into places; checks that they cover the file exactly."""
    try:
        entries = parse_json(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"is corrupt: its header is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise _broken(path, "is corrupt: its header is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    tensors: dict[str, StoredTensor] = {}
    for name, entry in entries.items():
        try:
            begin, end = (int(offset) for offset in entry["data_offsets"])
            shape = tuple(int(length) for length in entry["shape"])
            if any(length < 0 for length in shape):
                raise ValueError
            tensors[name] = StoredTensor(str(entry["dtype"]), shape, data_start + begin, data_start + end)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise _broken(path, f"is corrupt: the header entry of {name!r} is incomplete") from None

    place = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != place or tensor.end < tensor.begin:
            raise _broken(path, f"is corrupt: {name!r} does not start where the tensor before it ends")
        item_size = ITEM_SIZES.get(tensor.dtype)
        if item_size is not None and math.prod(tensor.shape) * item_size != tensor.end - tensor.begin:
            dims = "x".join(map(str, tensor.shape)) or "scalar"
            raise _broken(path, f"is corrupt: {name!r} ({tensor.dtype}, {dims}) has {tensor.end - tensor.begin} bytes")
        place = tensor.end
    if place > size:
        raise _broken(path, f"is cut off: {size} bytes of {place}, {place - size} are missing")
    if place < size:
        raise _broken(path, f"is corrupt: {size - place} bytes follow the last tensor")
    texts = metadata.items() if isinstance(metadata, dict) else ()
    return SafetensorsHeader(tensors, {key: value for key, value in texts if isinstance(value, str)})


def _broken(path: Path, what: str, hint: str = _FETCH_AGAIN) -> CheckpointError:
    return CheckpointError(f"{path.name} {what}.", hint=hint)
