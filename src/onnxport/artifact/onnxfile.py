"""Writing an ONNX graph with about one block of extra memory, whatever its size.

`onnx_ir.save` copies all weights into a protobuf message and that message into a string: three
times the model. Here the message is built without the large weights. In their place it holds
stubs, tensors that claim to be stored externally:

* `external=True`: the stubs stay and tell offset and length in the data file beside the graph;
* `external=False`: each stub becomes the header of a tensor whose bytes are streamed behind it, in
  one graph field of the right total length. The file is byte for byte what `onnx_ir.save` writes.

Small weights, strings, and weights of subgraphs (embedded mode) take the ordinary way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.artifact.manifest import DATA_SUFFIX
from onnxport.artifact.tensor_bytes import write_tensor
from onnxport.errors import MissingDependencyError, OutputError

if TYPE_CHECKING:
    import onnx_ir as ir

# Readers refuse a protobuf message of 2 GiB; 1 MiB is left for metadata that later steps add.
EMBEDDED_LIMIT_BYTES = 2**31 - 2**20
# Smaller weights stay in the graph: shape inference and constant folding read them there.
STREAMED_FROM_BYTES = 1024
# Offsets of large weights, so that run times can map them page by page.
_ALIGNMENT = 4096
_ALIGNED_FROM_BYTES = 2**20

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9


def write_model(
    model: ir.Model, path: Path, *, external: bool, reporter_bytes: Callable[[int], None] | None = None
) -> tuple[Path, ...]:
    """Write `model` to `path`; equal models give equal bytes.

    Existing files are replaced. What was written is removed when writing fails; to keep the old
    files in that case, write into a staging folder. The model is the same afterwards; while it is
    being written no other thread may use it.

    Args:
        model: with all weights set; weights may be in memory, lazy or in files.
        path: the graph file, in an existing folder.
        external: put weights of at least 1 KiB into `<path>_data`; the graph names it relatively.
        reporter_bytes: called with the number of weight bytes after every block written.

    Returns:
        The files: the graph, and the data file if there is one.

    Raises:
        OutputError: a model of 2 GiB cannot be one file, or the data file to be written is the one
            that the model's weights are being read from. Nothing was written.
        ExportError: a weight's bytes do not fit its type and shape.
        MissingDependencyError: onnx or onnx_ir is not installed.
        OSError: the files cannot be written.
    """
    _require_onnx()
    data_path = path.with_name(path.name + DATA_SUFFIX)
    report = reporter_bytes or (lambda _: None)
    if external:
        _refuse_own_source(model, data_path)
    elif needs_external(model):
        raise OutputError(
            f"{path.name} would be 2 GiB or more, which no ONNX file can be. It was not written.",
            hint="Use --use-external-format (use_external_format=True): weights go beside the graph.",
        )
    written = [path]
    try:
        if external:
            if _write_external(model, path, data_path, report):
                written.append(data_path)
        else:
            _write_embedded(model, path, report)
    except BaseException:
        for file in (path, data_path) if external else (path,):
            file.unlink(missing_ok=True)
        raise
    return tuple(written)


def needs_external(model: ir.Model) -> bool:
    """Whether graph and weights together reach the 2 GiB that one protobuf file cannot have."""
    _require_onnx()
    import onnx_ir as ir

    streamed = [value for graph in model.graphs() for value in _streamed(graph)]
    weights = sum(value.const_value.nbytes for value in streamed if value.const_value is not None)
    if weights >= EMBEDDED_LIMIT_BYTES:
        return True
    with _in_memory(model, streamed), _stubs(streamed, {}):
        return bool(weights + ir.to_proto(model).ByteSize() >= EMBEDDED_LIMIT_BYTES)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnx_ir  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Writing ONNX files needs the package {error.name!r}, which is not installed. Nothing was written.",
            hint="pip install 'onnxport[pytorch]' or pip install 'onnxport[tensorflow]'",
        ) from error


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


def _refuse_own_source(model: ir.Model, data_path: Path) -> None:
    import onnx_ir as ir

    for graph in model.graphs():
        for value in graph.initializers.values():
            source = value.const_value
            if isinstance(source, ir.ExternalTensor) and data_path.exists() and data_path.samefile(source.path):
                raise OutputError(
                    f"{data_path.name} holds the weights that are being converted. Nothing was written.",
                    hint="Write to another folder.",
                )


# ---------------------------------------------------------------------------- stand-ins


@contextmanager
def _stubs(values: list[ir.Value], places: dict[int, tuple[str, int]]) -> Iterator[None]:
    """Put external stand-ins without data in the place of `values`' weights; undone at the end.

    Args:
        values: initializers.
        places: by `id` of the value (names are unique only within one graph): location and offset
            of the weight's bytes.
    """
    import onnx_ir as ir

    originals = [(value, value.const_value) for value in values]
    try:
        for value, tensor in originals:
            assert tensor is not None
            location, offset = places.get(id(value), ("", 0))
            value.const_value = ir.ExternalTensor(
                location,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=tensor.shape,  # type: ignore[arg-type]
                name=value.name or "",
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
            )
        yield
    finally:
        for value, tensor in originals:
            value.const_value = tensor


@contextmanager
def _in_memory(model: ir.Model, stubbed: list[ir.Value]) -> Iterator[None]:
    """Load what is stored in other files and will not be streamed; undone at the end.

    Otherwise the new graph would refer to the old one's data file. Also keeps tensor names, which
    onnx_ir overwrites while it serializes.
    """
    import onnx_ir as ir

    skip = {id(value) for value in stubbed}
    values = [v for g in model.graphs() for v in g.initializers.values() if id(v) not in skip]
    originals = [(value, value.const_value) for value in values]
    names = [(tensor, tensor.name) for _, tensor in originals if tensor is not None]
    attributes: list[tuple[ir.Node, str, Any]] = []
    try:
        for value, tensor in originals:
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = _loaded(tensor)
        for body in (model.graph, *model.functions.values()):
            for node in ir.traversal.RecursiveGraphIterator(body):
                for name, attribute in list(node.attributes.items()):
                    if isinstance(attribute.value, ir.ExternalTensor):
                        attributes.append((node, name, attribute))
                        node.attributes[name] = ir.Attr(name, attribute.type, _loaded(attribute.value))
        yield
    finally:
        for value, tensor in originals:
            value.const_value = tensor
        for tensor, name in names:
            tensor.name = name
        for node, name, attribute in attributes:
            node.attributes[name] = attribute


def _loaded(tensor: ir.ExternalTensor) -> ir.Tensor:
    import onnx_ir as ir

    # A copy, because the map belongs to a file that may be replaced.
    return ir.Tensor(
        tensor.numpy().copy(),
        dtype=tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


# ---------------------------------------------------------------------------- the two layouts


def _write_external(model: ir.Model, path: Path, data_path: Path, report: Callable[[int], None]) -> bool:
    """Data file first, then the graph. Returns False when no weight is large enough for a data file."""
    import onnx_ir as ir

    streamed = [value for graph in model.graphs() for value in _streamed(graph)]
    places: dict[int, tuple[str, int]] = {}
    if streamed:
        with data_path.open("wb") as file:
            for value in streamed:
                assert value.const_value is not None
                if value.const_value.nbytes >= _ALIGNED_FROM_BYTES:
                    file.write(bytes(-file.tell() % _ALIGNMENT))
                places[id(value)] = (data_path.name, file.tell())
                write_tensor(value.const_value, file, report)
    else:
        # One left by an earlier model would look as if it belonged to this graph.
        data_path.unlink(missing_ok=True)
    with _in_memory(model, streamed), _stubs(streamed, places):
        path.write_bytes(ir.to_proto(model).SerializeToString())
    return bool(streamed)


def _write_embedded(model: ir.Model, path: Path, report: Callable[[int], None]) -> None:
    import onnx_ir as ir

    streamed = _streamed(model.graph)
    with _in_memory(model, streamed), _stubs(streamed, {}):
        proto = ir.to_proto(model)
    # In the order in which onnx_ir wrote them; those without a weight are not in the message.
    is_streamed = {id(value) for value in streamed}
    present = [value for value in model.graph.initializers.values() if value.const_value is not None]
    entries: list[tuple[bytes, ir.Value | None, bytes]] = []
    graph_bytes = 0
    for value, initializer in zip(present, proto.graph.initializer, strict=True):
        weight = value if id(value) in is_streamed else None
        head, tail = _tensor_frame(initializer, weight)
        entries.append((head, weight, tail))
        graph_bytes += len(head) + len(tail) + (weight.const_value.nbytes if weight and weight.const_value else 0)
    graph_head, graph_tail = _cut(proto.graph, _GRAPH_INITIALIZER)
    graph_bytes += len(graph_head) + len(graph_tail)
    model_head, model_tail = _cut(proto, _MODEL_GRAPH)
    with path.open("wb") as file:
        file.write(model_head + _length_prefix(_MODEL_GRAPH, graph_bytes) + graph_head)
        for head, weight, tail in entries:
            file.write(head)
            if weight is not None and weight.const_value is not None:
                write_tensor(weight.const_value, file, report)
            file.write(tail)
        file.write(graph_tail + model_tail)


# ---------------------------------------------------------------------------- protobuf


def _tensor_frame(initializer: Any, weight: ir.Value | None) -> tuple[bytes, bytes]:
    """What stands before and after the weight's bytes in the file; all before for a whole tensor.

    Args:
        initializer: the TensorProto, a stub if `weight` is given. It is changed.
    """
    if weight is None:
        content = initializer.SerializeToString()
        return _length_prefix(_GRAPH_INITIALIZER, len(content)) + content, b""
    assert weight.const_value is not None
    initializer.ClearField("external_data")
    initializer.ClearField("data_location")
    head, tail = _cut(initializer, _TENSOR_RAW_DATA)
    size = weight.const_value.nbytes
    head += _length_prefix(_TENSOR_RAW_DATA, size)
    return _length_prefix(_GRAPH_INITIALIZER, len(head) + size + len(tail)) + head, tail


def _cut(message: Any, number: int) -> tuple[bytes, bytes]:
    """Bytes of the fields before and after field `number`, which is dropped. Consumes the message.

    Protobuf writes fields in the order of their numbers, so the two parts are what the whole
    message would have around that field.
    """
    for field in message.DESCRIPTOR.fields:
        if field.number == number:
            message.ClearField(field.name)
    whole = message.SerializeToString()
    for field in message.DESCRIPTOR.fields:
        if field.number < number:
            message.ClearField(field.name)
    tail = message.SerializeToString()
    return whole[: len(whole) - len(tail)], tail


def _length_prefix(number: int, length: int) -> bytes:
    """Key and length of a length-delimited field."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
