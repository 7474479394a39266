"""Names of the files that hold a graph's weights: `model.onnx_data`, `model.onnx_data_1`, ...

transformers.js looks for exactly these with `use_external_data_format: N`.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection
from pathlib import Path

from onnxport.artifact.manifest import DATA_SUFFIX
from onnxport.formats.onnx_graph import read_onnx


def data_name(graph: str, number: int) -> str:
    """Name of data file `number`, counted from 0, of the graph file called `graph`."""
    return f"{graph}{DATA_SUFFIX}" + (f"_{number}" if number else "")


def next_free(graph: str, number: int, taken: Collection[str]) -> int:
    """The first number from `number` on whose data file of `graph` has none of the names in `taken`."""
    while data_name(graph, number) in taken:
        number += 1
    return number


def graph_bytes(graph: Path) -> int:
    """Size of a graph file and of the data files beside it."""
    return sum(file.stat().st_size for file in (graph, *data_files(graph)) if file.exists())


def data_files(graph: Path) -> list[Path]:
    """The data files that lie beside the graph file `graph`, which need not exist, in the order of their numbers.

    Raises:
        OSError: the folder cannot be read.
    """
    pattern = re.compile(re.escape(graph.name + DATA_SUFFIX) + r"(?:_([1-9][0-9]*))?")
    found: list[tuple[int, Path]] = []
    for entry in graph.parent.iterdir() if graph.parent.is_dir() else ():
        match = pattern.fullmatch(entry.name)
        # A folder of that name, or a link to one, is not ours.
        if match is not None and not entry.is_dir():
            found.append((int(match[1] or 0), entry))
    return [path for _, path in sorted(found)]


def files_read_by(graph: Path) -> list[Path]:
    """The data files that a graph reads: its own, and those of another graph that has the same weights.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is no ONNX graph.
    """
    with graph.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tensors = read_onnx(data).tensors
    named = {value for tensor in tensors for key, value in tensor.external if key == "location"}
    beside = [graph.parent / name for name in sorted(named) if name and Path(name).name == name]
    return list(dict.fromkeys((*data_files(graph), *beside)))
