"""Weights that graphs of one folder have in common, stored once.

An encoder and a decoder often read the same embedding table. The later graph then names the place in
the data file of the earlier.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onnxport.serialization.tensor_bytes import tensor_blocks

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.serialization.written_model import WrittenModel

# What is smaller is not worth a file of its own.
_WORTH_BYTES = 2**16


def weight_keys(model: ir.Model) -> frozenset[Any]:
    """What tells large weights of `model` apart, by `weight_key`."""
    return frozenset(weight_key(tensor) for _, tensor in _large(model))


def shared_weights(first: ir.Model, second: ir.Model) -> dict[str, str]:
    """Large weights of `second`, by name, and the name of the weight of `first` that has the same bytes."""
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


def refer_to(model: ir.Model, shared: dict[str, str], written: WrittenModel) -> None:
    """Let weights of `model` be the places where another graph's were written.

    Args:
        shared: what `shared_weights` found.
        written: the other graph, with data files, in the folder that `model` will be written to.
    """
    import onnx_ir as ir

    places = {record.name: record for record in written.weights}
    folder = written.files[0].parent.resolve()
    for name, other in shared.items():
        value, record = model.graph.initializers[name], places[other]
        tensor = cast("ir.TensorProtocol", value.const_value)
        value.const_value = ir.ExternalTensor(
            record.file, record.offset, record.length, tensor.dtype,
            shape=ir.Shape(tensor.shape), name=name, base_dir=folder,
        )  # fmt: skip


def shared_files(written: WrittenModel) -> dict[Path, str]:
    """The `link` of `write_model` for weights that `refer_to` placed."""
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
    """Equal for tensors of one layout that come from the same place; only those are read and compared."""
    return (getattr(tensor, "origin", None), tensor.dtype, tuple(tensor.shape.numpy()))


def _equal(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    pairs = zip_longest(tensor_blocks(first), tensor_blocks(second), fillvalue=b"")
    return all(bytes(ours) == bytes(theirs) for ours, theirs in pairs)
