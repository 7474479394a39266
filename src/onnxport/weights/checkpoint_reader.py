"""Read a checkpoint's tensors by their names, apart from the code that loads them.

The ledger of weights compares what was written with what this reads. So nothing here is shared with `stored`, `reading`
or `formats`: a fault in those must not appear on both sides.
"""

from __future__ import annotations

import json
import mmap
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onnxport.checkpoints.stored_parts import PackedWeight
from onnxport.errors import CheckpointError
from onnxport.weights.dequantize import packed_record
from onnxport.weights.dequantized_again import dequantized_again
from onnxport.weights.lazy import LazyTensor, in_memory
from onnxport.weights.origins import Stored

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


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class CheckpointReader:
    """The tensors of a checkpoint by name, memory-mapped.

    Args:
        files: its weight files.
        weights_format: "safetensors" or "pickle"; of other formats no tensor is known. Files of adapters are always
            safetensors.
        prefix: is left out of the names.
        packed: weights that are made of several stored tensors, which `names` leaves out.

    Raises:
        CheckpointError: a file cannot be read.

    Example:
        >>> reader = CheckpointReader([Path("model.safetensors")], "safetensors")  # doctest: +SKIP
        >>> reader.tensor("classifier.bias").shape  # doctest: +SKIP
        torch.Size([2])
    """

    def __init__(
        self, files: Sequence[Path], weights_format: str, prefix: str = "", packed: Collection[PackedWeight] = ()
    ) -> None:
        self.files, self.format, self.prefix = tuple(files), weights_format, prefix
        self.packed = {weight.name: weight for weight in packed}
        self._parts = {part for weight in packed for part in weight.parts.values()} - set(self.packed)
        self._maps: dict[Path, mmap.mmap] = {}
        self._places: dict[str, _Place] = {}
        self._pickled: dict[str, tuple[Path, torch.Tensor]] = {}
        for file in files:
            if weights_format == "safetensors" or file.suffix == ".safetensors":
                self._places |= {
                    name.removeprefix(prefix): place for name, place in _places(file, _FLOAT8 if packed else {}).items()
                }
            elif weights_format == "pickle":
                self._pickled |= {
                    name.removeprefix(prefix): (file, tensor) for name, tensor in _unpickled(file).items()
                }

    @property
    def names(self) -> list[str]:
        """Names of the tensors, in the order of the files."""
        known = dict.fromkeys([*self._places, *self._pickled, *self.packed])
        return [name for name in known if name not in self._parts]

    def __contains__(self, name: str) -> bool:
        return name in self._places or name in self._pickled or name in self.packed

    def file(self, name: str) -> Path:
        """The file that holds a tensor; of a packed weight, its integers."""
        name = self.packed[name].parts["integers"] if name in self.packed else name
        return self._places[name].file if name in self._places else self._pickled[name][0]

    def begin(self, name: str) -> int | None:
        """Offset of a tensor in its file, in bytes; None in a pickle."""
        return self._places[name].begin if name in self._places else None

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor's axes."""
        if name in self.packed:
            return self.packed[name].shape
        return self._places[name].shape if name in self._places else tuple(self._pickled[name][1].shape)

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor; packed weights are float32."""
        if name in self.packed:
            return torch.float32
        return self._places[name].dtype if name in self._places else self._pickled[name][1].dtype

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor."""
        count = 1
        for size in self.shape(name):
            count *= size
        return count * int(self.dtype(name).itemsize)

    def tensor(self, name: str) -> torch.Tensor:
        """The values of a tensor as it is stored.

        Pages of the file are read when they are used, and not kept by this process.

        Raises:
            CheckpointError: there is no such tensor, or its file has become shorter.
        """
        if name in self._pickled:
            return self._pickled[name][1]
        place = self._places.get(name)
        if place is None:
            raise CheckpointError(f"The checkpoint has no tensor {name!r}.", hint="Was it changed meanwhile?")
        if place.begin == place.end:
            return torch.empty(place.shape, dtype=place.dtype)
        if place.file not in self._maps:
            with place.file.open("rb") as file:
                self._maps[place.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        mapped = self._maps[place.file]
        if place.end > len(mapped):
            raise CheckpointError(
                f"{place.file.name} has become shorter while {name} was read.",
                hint="Do not change the checkpoint while it is converted.",
            )
        if place.begin % place.dtype.itemsize:
            raw = torch.frombuffer(bytearray(mapped[place.begin : place.end]), dtype=place.dtype)
        else:
            count = (place.end - place.begin) // place.dtype.itemsize
            raw = torch.frombuffer(mapped, dtype=place.dtype, offset=place.begin, count=count)
        return raw.view(place.shape)

    def values(self, name: str) -> torch.Tensor:
        """The values of a tensor, of a packed weight after dequantization.

        Raises:
            CheckpointError: as `tensor`.
        """
        weight = self.packed.get(name)
        if weight is None:
            return self.tensor(name)
        return dequantized_again(weight, {role: self.tensor(part) for role, part in weight.parts.items()})

    def record(self, name: str) -> LazyTensor:
        """The same as a record."""
        weight = self.packed.get(name)
        return self._stored(name) if weight is None else packed_record(weight, self._stored)

    def _stored(self, name: str) -> LazyTensor:
        place = self._places.get(name)
        if place is None:
            file, tensor = self._pickled[name]
            return in_memory(tensor, f"{file.name}: {name}")
        return LazyTensor(
            torch.empty(place.shape, dtype=place.dtype, device="meta"), Stored(place.file, name, place.begin)
        )


def _places(file: Path, more: dict[str, torch.dtype]) -> dict[str, _Place]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entries: dict[str, Any] = json.loads(opened.read(length))
    found, types = {}, _DTYPES | more
    for name, entry in entries.items():
        if name == "__metadata__" or entry["dtype"] not in types:
            continue
        begin, end = (8 + length + int(offset) for offset in entry["data_offsets"])
        found[name] = _Place(file, types[entry["dtype"]], tuple(entry["shape"]), begin, end)
    return found


def _unpickled(file: Path) -> dict[str, torch.Tensor]:
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
