"""A model without its weights, for a trace: parameters become fake tensors of the same shape and type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from onnxport.weights.lazy import LazyTensor

# A small tensor that is no parameter may be a constant that the trace folds or looks at.
_BUFFERS_FROM_BYTES = 2**20


def new_mode() -> FakeTensorMode:
    """A mode for `placeholders` that lets real inputs and constants meet fake weights."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def placeholders(model: torch.nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Fake parameters in the place of `model`'s; undone at the end. What is tied stays tied."""
    memo: dict[int, torch.Tensor] = {}
    replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    try:
        for module in model.modules():
            for table, is_buffer in ((module._parameters, False), (module._buffers, True)):
                for name, tensor in table.items():
                    if tensor is None or (is_buffer and not _is_large(tensor)):
                        continue
                    if id(tensor) not in memo:
                        memo[id(tensor)] = _fake(tensor, mode)
                    replaced.append((table, name, tensor))
                    table[name] = memo[id(tensor)]
        yield
    finally:
        for table, name, tensor in replaced:
            table[name] = tensor


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return torch.nn.Parameter(fake, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else fake


def _is_large(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, LazyTensor) or tensor.numel() * tensor.element_size() >= _BUFFERS_FROM_BYTES
