"""What was written for a graph: its files, their hashes, and where every large weight lies.

Nothing here imports a library: a folder can be checked where only the run time is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxport.errors import OutputError
from onnxport.serialization.checksums import sum_file


@dataclass(frozen=True)
class WeightRecord:
    """One weight that was streamed.

    Attributes:
        name: of the initializer in the graph.
        dtype: numpy name ("float32", "bfloat16", "int4").
        shape: in elements.
        file: name of the file that holds its bytes: a data file, or the graph itself; beside the graph.
        offset, length: of its bytes in that file.
        checksum: CRC-32 of its bytes, computed as they came from the source, 8 hex digits.
        source: where in the checkpoint it came from and what was done to it, or None where that is not known:
            "model-00001-of-00003.safetensors: layers.0.mlp.weight, transposed". Never an absolute path.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int
    checksum: str
    source: str | None = None


@dataclass(frozen=True)
class WrittenModel:
    """What `write_model` wrote.

    Attributes:
        files: the graph first, then the data files in the order of their first weight; linked ones too.
        sha256: name of each of these files to 64 hex digits.
        weights: one record for each weight of at least 1 KiB, in the order of the graph.
    """

    files: tuple[Path, ...]
    sha256: dict[str, str]
    weights: tuple[WeightRecord, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all files together, linked ones too."""
        return sum(file.stat().st_size for file in self.files)


def check_written(folder: Path, written: WrittenModel) -> None:
    """Read the weights back, and compare them with the checksums of their source.

    Args:
        folder: the folder of the graph.

    Raises:
        OutputError: names the first weight and its file where they differ, or a file that is missing.
        OSError: a file cannot be read.
    """
    for record in damaged(folder, written.weights):
        if not (folder / record.file).is_file():
            raise OutputError(
                f"{record.file}, which holds the weight {record.name!r}, is missing.",
                hint="Did another program remove it? Run the conversion again.",
            )
        raise OutputError(
            f"The weight {record.name!r} in {record.file} (bytes {record.offset:,} to "
            f"{record.offset + record.length:,}) is not what was read from its source.",
            hint="The disk or the memory may be faulty, or a file was changed meanwhile. Run the conversion again.",
        )


def damaged(folder: Path, weights: Iterable[WeightRecord]) -> Iterator[WeightRecord]:
    """The weights whose bytes in `folder` do not have their checksum, file by file; those of absent files too.

    Each file is read once, in blocks.

    Raises:
        OSError: a file cannot be read.
    """
    files: dict[str, list[WeightRecord]] = {}
    for record in weights:
        files.setdefault(record.file, []).append(record)
    for name, records in files.items():
        path = folder / name
        found = sum_file(path, ((r.offset, r.length) for r in records)).ranges if path.is_file() else {}
        yield from (r for r in records if found.get((r.offset, r.length)) != r.checksum)
