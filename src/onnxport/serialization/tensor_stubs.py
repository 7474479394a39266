"""What stands in for a weight while the message of a graph is built; undone afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.serialization.tensor_bytes import StreamsBytes, tensor_blocks, wrong_length

if TYPE_CHECKING:
    import onnx_ir as ir


@contextmanager
def stubs(values: list[ir.Value], places: Mapping[int, tuple[str, int]]) -> Iterator[None]:
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
def in_memory(model: ir.Model, stubbed: list[ir.Value]) -> Iterator[None]:
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
            if _is_elsewhere(tensor):
                value.const_value = _loaded(tensor)
        for body in (model.graph, *model.functions.values()):
            for node in ir.traversal.RecursiveGraphIterator(body):
                for name, attribute in list(node.attributes.items()):
                    if _is_elsewhere(attribute.value):
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


def _is_elsewhere(value: object) -> bool:
    import onnx_ir as ir

    return isinstance(value, ir.ExternalTensor | StreamsBytes)


def _loaded(tensor: Any) -> ir.TensorProtocol:
    """A copy in memory. Not through `numpy()`, which maps the file, and refuses one that has a second hard link."""
    import onnx_ir as ir

    content = bytearray()
    for block in tensor_blocks(tensor):
        content += block
    if len(content) != tensor.nbytes:
        raise wrong_length(tensor, len(content))
    about = {
        "dtype": tensor.dtype,
        "shape": tensor.shape,
        "name": tensor.name,
        "doc_string": tensor.doc_string,
        "metadata_props": dict(tensor.metadata_props),
    }
    raw = np.frombuffer(content, np.uint8)
    if tensor.dtype.bitwidth < 8:
        return ir.PackedTensor(raw, **about)
    array = raw.view(tensor.dtype.numpy().newbyteorder("<")).reshape(tensor.shape.numpy())
    return ir.Tensor(array, **about)
