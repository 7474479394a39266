"""The header of a GGUF file (llama.cpp), read and checked without loading any tensor.

Standard library only. Every count and length in the header is untrusted: nothing is allocated for
it before the file is known to be long enough.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxport.errors import CheckpointError

MAGIC = b"GGUF"
_LFS_POINTER = b"version https://git-lfs"
_VERSIONS = (2, 3)  # version 1 counted in 32 bits
_MAX_RANK = 4  # ggml's own limit
_ALIGNMENT = 32  # where the header does not say
_FETCH_AGAIN = "Copy or download the file again."

# ggml's types: name, elements of a block, its bytes. One that is missing is newer, and is not size-checked.
_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
_PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_INTEGERS = frozenset({"I8", "I16", "I32", "I64"})

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in the file.

    Attributes:
        type: ggml's name ("F32", "Q8_0"), or "type 99" for one that is not known here.
        shape: in the order of torch, the fastest axis last.
        begin: offset of its first byte, counted from the file's start.
    """

    type: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        version: of the format, 2 or 3.
        values: key to number, truth or text; for an array its length.
        tensors: by llama.cpp's names ("blk.0.attn_q.weight").
    """

    version: int
    values: Mapping[str, int | float | bool | str]
    tensors: Mapping[str, GgufTensor] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture ("llama", "qwen2moe")."""
        return str(self.values["general.architecture"])

    @property
    def elements(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def quantized(self) -> tuple[str, ...]:
        """Names of the quantized types, the one with most elements first."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            if tensor.type not in _PLAIN and tensor.type not in _INTEGERS:
                sizes[tensor.type] = sizes.get(tensor.type, 0) + math.prod(tensor.shape)
        return tuple(sorted(sizes, key=lambda name: (-sizes[name], name)))

    @property
    def dtype(self) -> str | None:
        """The floating point type that most elements have, as numpy and torch spell it; None if any is quantized."""
        if self.quantized:
            return None
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            if tensor.type in _PLAIN:
                sizes[tensor.type] = sizes.get(tensor.type, 0) + math.prod(tensor.shape)
        return _PLAIN[max(sizes, key=lambda name: sizes[name])] if sizes else None


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of `path`, checked against the size of the file.

    Raises:
        CheckpointError: a Git LFS pointer, not a GGUF file, another version, cut off or corrupt.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
        if start.startswith(_LFS_POINTER):
            raise _broken(path, "is a Git LFS pointer, not the weights", "Run `git lfs pull` in the folder.")
        if not size:
            raise _broken(path, "is empty, not a GGUF file")
        if not start.startswith(MAGIC) and start != MAGIC[: len(start)]:
            raise _broken(path, "is not a GGUF file: it does not start with GGUF", "Check what the file is.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _Reader(path, mapped, size).header()


class _Reader:
    """A cursor on the bytes of a file; every step is checked against its end."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size, self.place = path, data, size, len(MAGIC)

    def header(self) -> GgufHeader:
        (version,) = self._unpack("I")
        if version not in _VERSIONS:
            swapped = int.from_bytes(struct.pack("<I", version), "big")
            what = "is big-endian" if swapped in _VERSIONS else f"has version {version} of the format"
            raise _broken(
                self.path,
                f"{what}; versions {' and '.join(map(str, _VERSIONS))}, little-endian, can be read",
                "Convert the checkpoint that it was made from.",
            )
        tensor_count, value_count = self._unpack("QQ")
        values: dict[str, int | float | bool | str] = {}
        for _ in range(self._count(value_count, 8 + 4 + 1, "keys")):
            key = self._string()
            (kind,) = self._unpack("I")
            values[key] = self._value(key, kind)
        if not isinstance(values.get("general.architecture"), str) or not values["general.architecture"]:
            raise _broken(self.path, "does not name its architecture (general.architecture)")
        tensors = {}
        for _ in range(self._count(tensor_count, 8 + 4 + 4 + 8, "tensors")):
            name, tensor = self._tensor()
            if name in tensors:
                raise _broken(self.path, f"is corrupt: it has two tensors {name!r}")
            tensors[name] = tensor
        if not tensors:
            raise _broken(self.path, "holds no tensors")
        return GgufHeader(version, values, self._placed(tensors, values))

    def _unpack(self, layout: str) -> tuple[int, ...]:
        length = struct.calcsize(f"<{layout}")
        self._need(length)
        values = struct.unpack_from(f"<{layout}", self.data, self.place)
        self.place += length
        return values

    def _need(self, length: int) -> None:
        if length > self.size - self.place:
            raise _broken(self.path, f"is cut off or corrupt: its header goes on beyond its {self.size} bytes")

    def _count(self, count: int, least: int, what: str) -> int:
        """A count of entries of at least `least` bytes each, if the file can hold them."""
        if count > (self.size - self.place) // least:
            raise _broken(self.path, f"is cut off or corrupt: {self.size} bytes cannot hold its {count} {what}")
        return count

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        self._need(length)
        raw = self.data[self.place : self.place + length]
        self.place += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise _broken(self.path, "is corrupt: a text in its header is not UTF-8") from None

    def _value(self, key: str, kind: int) -> int | float | bool | str:
        if kind in _SCALARS:
            return self._unpack(_SCALARS[kind])[0]
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._skip_array(key)
        raise _broken(self.path, f"is corrupt, or newer than this version: {key!r} is of type {kind}")

    def _skip_array(self, key: str) -> int:
        """The number of elements of an array; the vocabulary is the tokenizer's to read."""
        kind, count = self._unpack("IQ")
        if kind in _SCALARS:
            width = struct.calcsize(f"<{_SCALARS[kind]}")
            self.place += width * self._count(count, width, f"elements of {key}")
        elif kind == _STRING:
            for _ in range(self._count(count, 8, f"elements of {key}")):
                (length,) = self._unpack("Q")
                self._need(length)
                self.place += length
        else:
            raise _broken(self.path, f"is corrupt, or newer than this version: {key!r} is an array of type {kind}")
        return count

    def _tensor(self) -> tuple[str, GgufTensor]:
        name = self._string()
        (rank,) = self._unpack("I")
        if rank > _MAX_RANK:
            raise _broken(self.path, f"is corrupt: {name!r} has {rank} axes, {_MAX_RANK} are possible")
        lengths = self._unpack(f"{rank}Q")
        kind, offset = self._unpack("IQ")
        type_name = _TYPES[kind][0] if kind in _TYPES else f"type {kind}"
        return name, GgufTensor(type_name, lengths[::-1], offset)

    def _placed(self, tensors: dict[str, GgufTensor], values: Mapping[str, object]) -> dict[str, GgufTensor]:
        """The tensors with offsets from the file's start, all of them inside of the file."""
        alignment = values.get("general.alignment", _ALIGNMENT)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment <= 0:
            raise _broken(self.path, f"is corrupt: its alignment is {alignment!r}")
        start = -(-self.place // alignment) * alignment
        blocks = {name: (elements, size) for name, elements, size in _TYPES.values()}
        placed = {}
        for name, tensor in tensors.items():
            elements, block = blocks.get(tensor.type, (1, 0))
            if tensor.shape and tensor.shape[-1] % elements:
                raise _broken(
                    self.path, f"is corrupt: rows of {name!r} ({tensor.type}) have {tensor.shape[-1]} elements"
                )
            end = start + tensor.begin + math.prod(tensor.shape) // elements * block
            if end > self.size:
                raise _broken(self.path, f"is cut off: {name!r} ends at byte {end}, the file has {self.size}")
            placed[name] = GgufTensor(tensor.type, tensor.shape, start + tensor.begin)
        return placed


def _broken(path: Path, what: str, hint: str = _FETCH_AGAIN) -> CheckpointError:
    return CheckpointError(f"{path.name} {what}.", hint=hint)
