"""Weights into a captured graph: each initializer becomes a place in the checkpoint, or a recipe for its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensor

from onnxport.errors import ExportError
from onnxport.weights.blocks import blocks, narrow
from onnxport.weights.lazy import IDENTITIES, LazyTensor, evaluate, hold, leaves, stored_location
from onnxport.weights.origins import Call, Held, Stored

_aten = torch.ops.aten
# Smaller ones are read at once: constant folding looks at them again and again.
_LAZY_FROM_BYTES = 1024


class _Moves:
    """What moving the numbers of a weight would give, without doing it (`graph.weight_layout.Movable`)."""

    lazy: LazyTensor

    @property
    def origin(self) -> tuple[Any, ...]:
        """Where the numbers come from; equal for two weights made of the same stored or held tensors."""
        return tuple(
            (leaf.path, leaf.begin) if isinstance(leaf, Stored) else leaf.tensor.data_ptr()
            for leaf in leaves(self.lazy)
        )

    def permuted(self, axes: list[int], name: str) -> ir.TensorProtocol:
        """Its axes in another order."""
        return weight(self.lazy.permute(axes), name)

    def part(self, axis: int, start: int, length: int, name: str) -> ir.TensorProtocol:
        """Indices `start` to `start + length` of an axis."""
        cut = narrow(self.lazy, axis, start, length)
        return weight(self.lazy.narrow(axis, start, length) if cut is None else cut, name)

    def reshaped(self, shape: list[int], name: str) -> ir.TensorProtocol:
        """The same numbers in the same order."""
        return weight(self.lazy.reshape(shape), name)


class CheckpointTensor(_Moves, ir.ExternalTensor):
    """An initializer whose bytes lie in a checkpoint's file as they are.

    Attributes:
        lazy: the same as a lazy tensor.
        source: where from, "model.safetensors: encoder.layer.0.output.dense.weight".
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


class StreamedTensor(_Moves, ir.LazyTensor):
    """An initializer whose bytes are computed in blocks: cast, transposed, merged, or held in memory.

    Attributes:
        lazy: how they are computed.
        source: where from, and what is done to it.
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
        """Little-endian C-order bytes, in order; no block is larger than a few MiB where the tensor can be cut."""
        pieces = blocks(self.lazy)
        while (block := _next(pieces)) is not None:
            # As bytes, because numpy does not know bfloat16.
            yield memoryview(block.detach().reshape(-1).view(torch.uint8).numpy())


def _next(pieces: Iterator[torch.Tensor]) -> torch.Tensor | None:
    """The next piece, made by one thread: memory is the limit, and a second one would spin while it waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return next(pieces, None)
    finally:
        torch.set_num_threads(threads)


def attach(model: ir.Model, module: torch.nn.Module) -> None:
    """Give every initializer of `model` that stands for a tensor of `module` that tensor's numbers.

    Args:
        model: as captured with placeholders.
        module: the module that was captured, its own tensors in place again.

    Raises:
        ExportError: an initializer has no numbers, or its tensor has another shape or type.
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
                    f"The captured graph has a weight {name!r} ({list(raw.shape)} {raw.dtype}) for which the model "
                    f"has no numbers (found: {found}).",
                    hint="Report this model.",
                )
            value.const_value = weight(tensor, name)


def weight(tensor: torch.Tensor, name: str) -> ir.TensorProtocol:
    """A parameter as an onnx_ir tensor that is read when it is written."""
    tensor = tensor.detach()
    lazy = tensor if isinstance(tensor, LazyTensor) else hold(tensor, f"memory: {name}")
    if lazy.numel() * lazy.element_size() < _LAZY_FROM_BYTES:
        return ir.tensor_adapters.TorchTensor(evaluate(lazy).contiguous(), name=name)
    stored = stored_location(lazy)
    return CheckpointTensor(lazy, stored, name) if stored is not None else StreamedTensor(lazy, name)


def describe(lazy: LazyTensor) -> str:
    """Where a weight comes from and what is done to it, for people: "FILE: NAME, to float32, t"."""
    places = list(dict.fromkeys(_leaf_name(leaf) for leaf in leaves(lazy)))
    shown = places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"
    return ", ".join([shown, *_operations(lazy)])


def _leaf_name(leaf: Stored | Held) -> str:
    return f"{leaf.path.name}: {leaf.name}" if isinstance(leaf, Stored) else leaf.name or "memory"


def _operations(lazy: LazyTensor) -> list[str]:
    origin: Any = lazy.origin
    done: list[str] = []
    while isinstance(origin, Call):
        if origin.operator is _aten._to_copy.default and origin.kwargs.get("dtype") is not None:
            done.append(f"to {str(origin.kwargs['dtype']).removeprefix('torch.')}")
        elif origin.operator not in IDENTITIES and origin.operator is not _aten.clone.default:
            done.append(str(origin.operator).split(".")[1])
        first = origin.args[0]
        origin = (first[0] if isinstance(first, list | tuple) else first).origin
    return done[::-1]
