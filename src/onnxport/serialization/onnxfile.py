"""Writing an ONNX graph with about one block of extra memory, whatever its size.

`onnx_ir.save` copies all weights into a protobuf message and that message into a string: three
times the model. Here the message is built without the large weights. In their place it holds
stubs, tensors that claim to be stored externally:

* `external=True`: the stubs stay and tell file, offset and length in the data files beside the graph;
* `external=False`: each stub becomes the header of a tensor whose bytes are streamed behind it, in
  one graph field of the right total length. The file is byte for byte what `onnx_ir.save` writes.

Small weights, strings, and weights of subgraphs (embedded mode) take the ordinary way. Every byte
passes once: on its way it is hashed for the file and summed for its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.artifact.data_files import data_files
from onnxport.errors import ExportError, MissingDependencyError, OutputError
from onnxport.formats.protobuf_wire import length_prefix
from onnxport.serialization.checksums import sum_file
from onnxport.serialization.hashed_file import HashedFile
from onnxport.serialization.layout import DataRange, lay_out
from onnxport.serialization.link import link_file
from onnxport.serialization.protobuf import GRAPH_INITIALIZER, MODEL_GRAPH, cut, tensor_frame
from onnxport.serialization.tensor_bytes import new_buffer, write_tensor, wrong_length
from onnxport.serialization.tensor_stubs import in_memory, stubs
from onnxport.serialization.written_model import WeightRecord, WrittenModel

if TYPE_CHECKING:
    import onnx_ir as ir

# Readers refuse a protobuf message of 2 GiB; 1 MiB is left for metadata that later steps add.
EMBEDDED_LIMIT_BYTES = 2**31 - 2**20
# Smaller weights stay in the graph: shape inference and constant folding read them there.
STREAMED_FROM_BYTES = 1024

Report = Callable[[int], None]


@dataclass(frozen=True)
class Cost:
    """What writing a model will take, in bytes.

    Attributes:
        written: of weights, on the disk; without the graph itself (some MB at most). Linked files are none.
        reported: what `reporter_bytes` will sum up to: weights that are copied, and linked files, which are read.
    """

    written: int
    reported: int


def write_model(
    model: ir.Model,
    path: Path,
    *,
    external: bool,
    reporter_bytes: Report | None = None,
    shard_bytes: int | None = None,
    link: Mapping[Path, str] | None = None,
    taken: Collection[str] = (),
) -> WrittenModel:
    """Write `model` to `path`; equal models give equal bytes.

    Existing files are replaced, data files of an older graph at `path` too. What was written is
    removed when writing fails; to keep the old files in that case, write into a staging folder. The
    model is the same afterwards; while it is being written no other thread may use it.

    Args:
        model: with all weights set; weights may be in memory, lazy, streaming or in files.
        path: the graph file, in an existing folder.
        external: put weights of at least 1 KiB into `<path>_data`; the graph names it relatively.
        reporter_bytes: called with the number of weight bytes after every block.
        shard_bytes: with `external`: go on in `<path>_data_1`, `<path>_data_2` ... where a file would be
            longer than this. A weight is never split; a larger one has a file of its own.
        link: with `external`: a checkpoint's file to its name beside the graph (`layout.link_names`
            makes one). Weights stored in it as they are are not copied; the file is linked instead.
        taken: with `external`: names that no data file may have.

    Returns:
        The files with their hashes, and the weights with their places and checksums.

    Raises:
        OutputError: a model of 2 GiB cannot be one file, a file to be written is one that the
            model's weights are being read from, or a file cannot be linked.
        ExportError: a weight's bytes do not fit its type and shape, or its file is cut off.
        MissingDependencyError: onnx or onnx_ir is not installed.
        OSError: the files cannot be written.
    """
    _require_onnx()
    links = _checked(external, shard_bytes, link, path.name)
    writer = _Writer(model, path, reporter_bytes or (lambda _: None))
    if not external and needs_external(model):
        raise OutputError(
            f"{path.name} would be 2 GiB or more, which no ONNX file can be. It was not written.",
            hint="Use --use-external-format (use_external_format=True): weights go beside the graph.",
        )
    try:
        if external:
            writer.external(shard_bytes, links, taken)
        else:
            writer.embedded()
    except BaseException:
        for file in writer.created:
            # What went wrong matters more than a file that cannot be removed.
            with suppress(OSError):
                file.unlink()
        raise
    return WrittenModel((path, *writer.data), writer.sha256, tuple(writer.records))


def write_cost(
    model: ir.Model, *, external: bool, shard_bytes: int | None = None, link: Mapping[Path, str] | None = None
) -> Cost:
    """What `write_model` with the same arguments will write and report; no weight is read.

    Raises:
        OSError: a file to be linked is not there.
    """
    links = _checked(external, shard_bytes, link, "")
    if not external:
        size = sum(tensor.nbytes for tensor in _tensors(_streamed(model.graph)))
        return Cost(size, size)
    places = lay_out("graph", streamed_tensors(model), shard_bytes=shard_bytes, link=links)
    ends = {place.file: place.end for place in places if not place.linked}
    linked = {place.file for place in places if place.linked}
    copied = sum(place.length for place in places if not place.linked)
    read = sum(source.stat().st_size for source, name in links.items() if name in linked)
    return Cost(sum(ends.values()), copied + read)


def streamed_tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    """The weights that `external=True` puts into data files, in their order; for `layout.link_names`."""
    return _tensors(_all_streamed(model))


def needs_external(model: ir.Model) -> bool:
    """Whether graph and weights together reach the 2 GiB that one protobuf file cannot have."""
    _require_onnx()
    import onnx_ir as ir

    streamed = _all_streamed(model)
    weights = sum(tensor.nbytes for tensor in _tensors(streamed))
    if weights >= EMBEDDED_LIMIT_BYTES:
        return True
    with in_memory(model, streamed), stubs(streamed, {}):
        return bool(weights + ir.to_proto(model).ByteSize() >= EMBEDDED_LIMIT_BYTES)


class _Writer:
    """Writes the files of one model; `created` is what must go if that fails."""

    def __init__(self, model: ir.Model, path: Path, report: Report) -> None:
        self.model = model
        self.path = path
        self.report = report
        self.buffer = new_buffer()
        self.created: list[Path] = []
        self.data: list[Path] = []
        self.sha256: dict[str, str] = {}
        self.records: list[WeightRecord] = []

    def external(self, shard_bytes: int | None, links: Mapping[Path, str], taken: Collection[str]) -> None:
        """Data files first, then the graph; no data file when no weight is large enough for one."""
        import onnx_ir as ir

        values = _all_streamed(self.model)
        places = lay_out(self.path.name, _tensors(values), shard_bytes=shard_bytes, link=links, taken=taken)
        items = list(zip(values, places, strict=True))
        self.data = [self.path.with_name(name) for name in dict.fromkeys(place.file for place in places)]
        linked = {place.file: source for source, name in links.items() for place in places if place.file == name}
        sums: dict[DataRange, str] = {}
        for value, place in items:
            length = getattr(value.const_value, "length", None)
            if place.linked and length is not None and length != place.length:
                raise wrong_length(_tensor(value), length)
        self._replace_old(linked)
        for name, source in linked.items():
            self._link(source, name, [item for item in items if item[1].file == name], sums)
        for name, group in groupby((item for item in items if not item[1].linked), lambda item: item[1].file):
            self._write_data(self.path.with_name(name), list(group), sums)
        locations = {id(value): (place.file, place.offset) for value, place in items}
        with in_memory(self.model, values), stubs(values, locations):
            content = ir.to_proto(self.model).SerializeToString()
        with self._create(self.path, 0) as file:
            file.write(content)
        self.sha256[self.path.name] = file.sha256
        self.records = [_record(value, place, sums[place]) for value, place in items]

    def embedded(self) -> None:
        """One file: the message, cut open around every large weight."""
        import onnx_ir as ir

        streamed = _streamed(self.model.graph)
        with in_memory(self.model, streamed), stubs(streamed, {}):
            proto = ir.to_proto(self.model)
        # In the order in which onnx_ir wrote them; those without a weight are not in the message.
        is_streamed = {id(value) for value in streamed}
        present = [value for value in self.model.graph.initializers.values() if value.const_value is not None]
        entries: list[tuple[bytes, ir.Value | None, bytes]] = []
        graph_bytes = 0
        for value, initializer in zip(present, proto.graph.initializer, strict=True):
            weight = value if id(value) in is_streamed else None
            head, tail = tensor_frame(initializer, weight)
            entries.append((head, weight, tail))
            graph_bytes += len(head) + len(tail) + (_tensor(weight).nbytes if weight else 0)
        graph_head, graph_tail = cut(proto.graph, GRAPH_INITIALIZER)
        graph_bytes += len(graph_head) + len(graph_tail)
        model_head, model_tail = cut(proto, MODEL_GRAPH)
        _refuse_own_source(self.model, [self.path], {})
        expected = graph_bytes + len(model_head) + len(model_tail) + len(length_prefix(MODEL_GRAPH, graph_bytes))
        with self._create(self.path, expected) as file:
            file.write(model_head + length_prefix(MODEL_GRAPH, graph_bytes) + graph_head)
            for head, weight, tail in entries:
                file.write(head)
                if weight is not None:
                    place = DataRange(self.path.name, file.size, _tensor(weight).nbytes)
                    checksum = write_tensor(_tensor(weight), file, self.report, self.buffer)
                    self.records.append(_record(weight, place, checksum))
                file.write(tail)
            file.write(graph_tail + model_tail)
        self.sha256[self.path.name] = file.sha256

    def _replace_old(self, linked: Mapping[str, Path]) -> None:
        """Remove what is in the way, and data files that would look as if they belonged to the new graph."""
        old = list(dict.fromkeys((*data_files(self.path), *self.data, self.path)))
        _refuse_own_source(self.model, old, linked)
        for file in old:
            if file.name not in linked or not _is_same(file, linked[file.name]):
                file.unlink(missing_ok=True)

    def _link(
        self, source: Path, name: str, items: list[tuple[ir.Value, DataRange]], sums: dict[DataRange, str]
    ) -> None:
        target = self.path.with_name(name)
        if link_file(source, target):
            self.created.append(target)
        ranges = [(place.offset, place.length) for _, place in items]
        found = sum_file(target, ranges, sha256=True, report=self.report)
        for value, place in items:
            if (place.offset, place.length) not in found.ranges:
                raise ExportError(
                    f"{source.name} has {found.size:,} bytes, and the weight {value.name!r} ends at byte "
                    f"{place.end:,}. The model was not written.",
                    hint="Was the file changed meanwhile? Copy or download it again.",
                )
            sums[place] = found.ranges[place.offset, place.length]
        assert found.sha256 is not None
        self.sha256[name] = found.sha256

    def _write_data(self, target: Path, items: list[tuple[ir.Value, DataRange]], sums: dict[DataRange, str]) -> None:
        with self._create(target, max(place.end for _, place in items)) as file:
            for value, place in items:
                file.write(bytes(place.offset - file.size))
                sums[place] = write_tensor(_tensor(value), file, self.report, self.buffer)
        self.sha256[target.name] = file.sha256

    def _create(self, target: Path, expected: int) -> HashedFile:
        self.created.append(target)
        return HashedFile(target, expected)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnx_ir  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Writing ONNX files needs the package {error.name!r}, which is not installed.",
            hint="pip install 'onnxport[pytorch]' or pip install 'onnxport[tensorflow]'",
        ) from error


def _checked(external: bool, shard_bytes: int | None, link: Mapping[Path, str] | None, graph: str) -> dict[Path, str]:
    """`link` with resolved paths; ValueError for options that a program must not give."""
    if not external and (shard_bytes is not None or link):
        raise ValueError("shards and links need external=True")
    if shard_bytes is not None and shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, not {shard_bytes}")
    links = {source.resolve(): name for source, name in (link or {}).items()}
    names = list(links.values())
    for name in names:
        if name in ("", ".", "..", graph) or Path(name).name != name or names.count(name) > 1:
            raise ValueError(f"a linked file needs a name of its own beside the graph, not {name!r}")
    return links


def _streamed(graph: ir.Graph) -> list[ir.Value]:
    """Initializers whose bytes are written apart from the message."""
    import onnx_ir as ir

    return [
        value
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and value.const_value.nbytes >= STREAMED_FROM_BYTES
    ]


def _all_streamed(model: ir.Model) -> list[ir.Value]:
    return [value for graph in model.graphs() for value in _streamed(graph)]


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _tensors(values: list[ir.Value]) -> list[ir.TensorProtocol]:
    return [_tensor(value) for value in values]


def _record(value: ir.Value, place: DataRange, checksum: str) -> WeightRecord:
    tensor = _tensor(value)
    return WeightRecord(
        name=value.name or "",
        dtype=tensor.dtype.numpy().name,
        shape=tuple(int(size) for size in tensor.shape.numpy()),
        file=place.file,
        offset=place.offset,
        length=place.length,
        checksum=checksum,
        source=getattr(tensor, "source", None),
    )


def _refuse_own_source(model: ir.Model, targets: list[Path], linked: Mapping[str, Path]) -> None:
    """No target may be a file that the weights are read from, save where it is linked to itself."""
    import onnx_ir as ir

    tensors = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    sources = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    for target in targets:
        if target.name in linked and _is_same(target, linked[target.name]):
            continue
        if any(_is_same(target, source) for source in sources):
            raise OutputError(
                f"{target.name} holds the weights that are being converted.",
                hint="Write to another folder.",
            )


def _is_same(first: Path, second: Path) -> bool:
    return first.exists() and second.exists() and first.samefile(second)
