"""Attach weights to a captured graph: each initializer refers to the checkpoint, or knows how to compute its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensor

from onnxport.errors import ExportError
from onnxport.weights.blocks import blocks, narrow
from onnxport.weights.lazy import IDENTITIES, LazyTensor, evaluate, in_memory, leaves, stored_location
from onnxport.weights.origins import InMemory, Operation, Stored

_aten = torch.ops.aten
# Smaller weights are read at once: constant folding reads them many times.
_LAZY_FROM_BYTES = 1024


class _Rearrangeable:
    """Rearranges a weight without reading it (`graph.weight_layout.RearrangeableWeight`)."""

    lazy: LazyTensor

    @property
    def origin(self) -> tuple[Any, ...]:
        """Where the values come from; equal for weights made of the same stored tensors or tensors in memory."""
        return tuple(
            (leaf.path, leaf.begin) if isinstance(leaf, Stored) else leaf.tensor.data_ptr()
            for leaf in leaves(self.lazy)
        )

    def permuted(self, axes: list[int], name: str) -> ir.TensorProtocol:
        """Return the weight with its axes in another order."""
        return weight(self.lazy.permute(axes), name)

    def sliced(self, axis: int, start: int, length: int, name: str) -> ir.TensorProtocol:
        """Return indices `start` to `start + length` of an axis."""
        cut = narrow(self.lazy, axis, start, length)
        return weight(self.lazy.narrow(axis, start, length) if cut is None else cut, name)

    def reshaped(self, shape: list[int], name: str) -> ir.TensorProtocol:
        """Return the weight in another shape."""
        return weight(self.lazy.reshape(shape), name)


class CheckpointTensor(_Rearrangeable, ir.ExternalTensor):  # type: ignore[misc]
    """An initializer whose bytes are in a checkpoint file unchanged.

    Args:
        lazy: the weight.
        stored: its place in the file.
        name: name of the initializer.

    Attributes:
        lazy: the weight.
        source: for people: "model.safetensors: encoder.layer.0.output.dense.weight".
    """

    def __init__(self, lazy: LazyTensor, stored: Stored, name: str) -> None:
        super().__init__(
            str(stored.path.resolve()),
            stored.begin,
            lazy.numel() * lazy.element_size(),
            ir.tensor_adapters.from_torch_dtype(lazy.dtype),
            shape=ir.Shape(lazy.shape),
            name=name,
        )
        self.lazy = lazy
        self.source = describe(lazy)


class StreamedTensor(_Rearrangeable, ir.LazyTensor):  # type: ignore[misc]
    """An initializer whose bytes are computed in blocks: cast, transposed, merged, or copied from memory.

    Args:
        lazy: the weight.
        name: name of the initializer.

    Attributes:
        lazy: the weight.
        source: for people: where it comes from and what is done to it.
    """

    def __init__(self, lazy: LazyTensor, name: str) -> None:
        super().__init__(
            lambda: ir.tensor_adapters.TorchTensor(evaluate(lazy).contiguous(), name=name),
            dtype=ir.tensor_adapters.from_torch_dtype(lazy.dtype),
            shape=ir.Shape(lazy.shape),
            name=name,
        )
        self.lazy = lazy
        self.source = describe(lazy)

    def blocks(self) -> Iterator[memoryview]:
        """Yield little-endian C-order bytes in order, in blocks of a few MiB if the tensor can be split."""
        blocks_left = blocks(self.lazy)
        while (block := _next_block(blocks_left)) is not None:
            # As bytes: numpy has no bfloat16.
            yield memoryview(block.detach().reshape(-1).view(torch.uint8).numpy())


def _next_block(blocks_left: Iterator[torch.Tensor]) -> torch.Tensor | None:
    """Compute the next block with one thread: memory is the limit, and a second thread would busy-wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return next(blocks_left, None)
    finally:
        torch.set_num_threads(threads)


def attach(model: ir.Model, module: torch.nn.Module) -> None:
    """Give every initializer that stands for a tensor of `module` its values, in place.

    Args:
        model: a graph that was captured with placeholders.
        module: the captured module, with its own tensors restored.

    Raises:
        ExportError: an initializer has no tensor in the module, or one of another shape or type.
    """
    own: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own.update(module.named_buffers(remove_duplicate=False))
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            raw = getattr(value.const_value, "raw", None)
            if not isinstance(raw, torch.Tensor):
                continue
            is_placeholder = isinstance(raw, FakeTensor) or isinstance(raw.data, FakeTensor) or raw.is_meta
            tensor = own.get(name) if is_placeholder else raw
            if tensor is None or tensor.shape != raw.shape or tensor.dtype != raw.dtype:
                found = "none" if tensor is None else f"{list(tensor.shape)} {tensor.dtype}"
                raise ExportError(
                    f"The exported graph has a weight {name!r} ({list(raw.shape)} {raw.dtype}) that the model does not "
                    f"have (found: {found}).",
                    hint="Report this model.",
                )
            value.const_value = weight(tensor, name)


def weight(tensor: torch.Tensor, name: str) -> ir.TensorProtocol:
    """Return a parameter as an onnx_ir tensor that is read while it is written.

    Args:
        tensor: the parameter.
        name: name of the initializer.
    """
    tensor = tensor.detach()
    lazy = tensor if isinstance(tensor, LazyTensor) else in_memory(tensor, f"memory: {name}")
    if lazy.numel() * lazy.element_size() < _LAZY_FROM_BYTES:
        return ir.tensor_adapters.TorchTensor(evaluate(lazy).contiguous(), name=name)
    stored = stored_location(lazy)
    return CheckpointTensor(lazy, stored, name) if stored is not None else StreamedTensor(lazy, name)


def describe(lazy: LazyTensor) -> str:
    """Describe where a weight comes from and what is done to it: "FILE: NAME, to float32, t".

    Args:
        lazy: the weight.
    """
    sources = list(dict.fromkeys(_leaf_name(leaf) for leaf in leaves(lazy)))
    shown = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
    return ", ".join([shown, *_operations(lazy)])


def _leaf_name(leaf: Stored | InMemory) -> str:
    return f"{leaf.path.name}: {leaf.name}" if isinstance(leaf, Stored) else leaf.name or "memory"


def _operations(lazy: LazyTensor) -> list[str]:
    origin: Any = lazy.origin
    names: list[str] = []
    while isinstance(origin, Operation):
        if origin.operator is _aten._to_copy.default and origin.kwargs.get("dtype") is not None:
            names.append(f"to {str(origin.kwargs['dtype']).removeprefix('torch.')}")
        elif origin.operator not in IDENTITIES and origin.operator is not _aten.clone.default:
            names.append(str(origin.operator).split(".")[1])
        first = origin.args[0]
        origin = (first[0] if isinstance(first, list | tuple) else first).origin
    return names[::-1]
