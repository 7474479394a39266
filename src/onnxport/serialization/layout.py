"""Which weight goes into which data file, at which offset; decided before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.artifact.data_files import data_name, next_free
from onnxport.serialization.tensor_bytes import StreamsBytes

if TYPE_CHECKING:
    import onnx_ir as ir

# Offsets of large weights, so that run times can map them page by page.
_ALIGNMENT = 4096
_ALIGNED_FROM_BYTES = 2**20


@dataclass(frozen=True)
class DataRange:
    """Where one weight's bytes lie.

    Attributes:
        file: name of the data file, beside the graph.
        offset, length: in bytes.
        linked: the file is a checkpoint's own; nothing is written into it.
    """

    file: str
    offset: int
    length: int
    linked: bool = False

    @property
    def end(self) -> int:
        """Offset of the byte after the last one."""
        return self.offset + self.length


def lay_out(
    graph: str,
    tensors: Iterable[ir.TensorProtocol],
    *,
    shard_bytes: int | None,
    link: Mapping[Path, str],
    taken: Collection[str] = (),
) -> list[DataRange]:
    """The places of `tensors`, in their order.

    Args:
        graph: name of the graph file.
        tensors: what goes into data files.
        shard_bytes: a data file is not made longer than this, except for a single weight that is;
            None is one file. A weight is never split.
        link: resolved path of a checkpoint's file to the name that it has beside the graph.
            Weights stored in these files stay there.
        taken: names that no new data file may have.
    """
    taken = {*taken, *link.values()}
    number = next_free(graph, 0, taken)
    end = 0
    places = []
    for tensor in tensors:
        name = linked_name(tensor, link)
        if name is not None:
            places.append(DataRange(name, getattr(tensor, "offset", None) or 0, tensor.nbytes, linked=True))
            continue
        start = _aligned(end, tensor.nbytes)
        if shard_bytes is not None and end and start + tensor.nbytes > shard_bytes:
            number, start = next_free(graph, number + 1, taken), 0
        place = DataRange(data_name(graph, number), start, tensor.nbytes)
        places.append(place)
        end = place.end
    return places


def linked_name(tensor: ir.TensorProtocol, link: Mapping[Path, str]) -> str | None:
    """The name in `link` of the file that holds the tensor's bytes as they are; None if they are to be written."""
    import onnx_ir as ir

    # One that streams makes other bytes of those that are stored.
    if not link or not isinstance(tensor, ir.ExternalTensor) or isinstance(tensor, StreamsBytes):
        return None
    return link.get(Path(tensor.path).resolve())


def link_names(
    tensors: Iterable[ir.TensorProtocol], graph: Path, taken: Collection[str] = ()
) -> dict[Path, str]:  # fmt: skip
    """The `link` of `write_model` for every file that holds weights as they are, in the order of their first use.

    A file that already lies in the folder of `graph` keeps its name; others get those of data files.

    Args:
        tensors: the weights; those that are not in files are passed over.
        graph: the graph file at its final place, not in a staging folder.
        taken: names that no further file may have.
    """
    import onnx_ir as ir

    stored = (t.path for t in tensors if isinstance(t, ir.ExternalTensor) and not isinstance(t, StreamsBytes))
    paths = dict.fromkeys(Path(path).resolve() for path in dict.fromkeys(stored))
    folder = graph.parent.resolve()
    names: dict[Path, str] = {path: path.name for path in paths if path.parent == folder}
    for path in paths:
        if path not in names:
            names[path] = data_name(graph.name, next_free(graph.name, 0, {*taken, *names.values()}))
    return {path: names[path] for path in paths}


def _aligned(offset: int, length: int) -> int:
    return offset + (-offset % _ALIGNMENT if length >= _ALIGNED_FROM_BYTES else 0)
