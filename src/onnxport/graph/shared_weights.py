"""Store weights that several graphs of a folder have in common once.

An encoder and a decoder often read the same embedding table. The later graph then refers to the data file of the
earlier one.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onnxport.serialization.tensor_bytes import tensor_blocks

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.serialization.written_model import WrittenModel

# Smaller weights are not worth an external file.
_WORTH_BYTES = 2**16


def weight_keys(model: ir.Model) -> frozenset[Any]:
    """Return the keys (`weight_key`) of the large weights of `model`."""
    return frozenset(weight_key(tensor) for _, tensor in _large(model))


def shared_weights(first: ir.Model, second: ir.Model) -> dict[str, str]:
    """Find large weights that two graphs have in common.

    Args:
        first: the graph that is written first.
        second: the graph that may refer to its weights.

    Returns:
        Name of a weight of `second` -> name of the weight of `first` with the same bytes.
    """
    known: dict[Any, list[tuple[str, ir.TensorProtocol]]] = {}
    for name, tensor in _large(first):
        known.setdefault(weight_key(tensor), []).append((name, tensor))
    found = {}
    for name, tensor in _large(second):
        for other, candidate in known.get(weight_key(tensor), ()):
            if _equal(candidate, tensor):
                found[name] = other
                break
    return found


def refer_to_written(model: ir.Model, shared: dict[str, str], written: WrittenModel) -> None:
    """Point weights of `model` to the file where another graph's weights were written, in place.

    Args:
        model: the later graph.
        shared: the result of `shared_weights`.
        written: the earlier graph, with data files, in the folder that `model` will be written to.
    """
    import onnx_ir as ir

    records = {record.name: record for record in written.weights}
    folder = written.files[0].parent.resolve()
    for name, other in shared.items():
        value, record = model.graph.initializers[name], records[other]
        tensor = cast("ir.TensorProtocol", value.const_value)
        value.const_value = ir.ExternalTensor(
            record.file, record.offset, record.length, tensor.dtype,
            shape=ir.Shape(tensor.shape), name=name, base_dir=folder,
        )  # fmt: skip


def shared_files(written: WrittenModel) -> dict[Path, str]:
    """Return the `link` argument of `write_model` for weights that `refer_to` changed."""
    return {file.resolve(): file.name for file in written.files[1:]}


def _large(model: ir.Model) -> list[tuple[str, ir.TensorProtocol]]:
    return [
        (name, tensor)
        for name, value in model.graph.initializers.items()
        if (tensor := value.const_value) is not None
        and tensor.nbytes >= _WORTH_BYTES
        and getattr(tensor, "origin", None) is not None
    ]


def weight_key(tensor: Any) -> tuple[Any, ...]:
    """Return a key that is equal for weights of one layout from the same place; only those are read and compared."""
    return (getattr(tensor, "origin", None), tensor.dtype, tuple(tensor.shape.numpy()))


def _equal(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    pairs = zip_longest(tensor_blocks(first), tensor_blocks(second), fillvalue=b"")
    return all(bytes(ours) == bytes(theirs) for ours, theirs in pairs)
