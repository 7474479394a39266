"""Replace the weights of a model while it is traced: parameters become fake tensors of the same shape and type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from onnxport.weights.lazy import LazyTensor

# The trace may fold or read a small buffer, so only large buffers are replaced.
_BUFFERS_FROM_BYTES = 2**20


def new_fake_mode() -> FakeTensorMode:
    """Return a mode for `placeholders` in which real inputs and constants can be combined with fake weights."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # The cache of results compares symbolic sizes: it costs a quarter of a trace, and most of its entries serve once.
    mode.cache_enabled = False
    return mode


@contextmanager
def placeholders(model: torch.nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Replace `model`'s parameters by fake ones; undone at the end. Tied parameters stay tied.

    Args:
        model: the module.
        mode: the result of `new_fake_mode`.
    """
    fakes: dict[int, torch.Tensor] = {}
    replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    try:
        for module in model.modules():
            for table, is_buffer in ((module._parameters, False), (module._buffers, True)):
                for name, tensor in table.items():
                    if tensor is None or (is_buffer and not _is_large(tensor)):
                        continue
                    if id(tensor) not in fakes:
                        fakes[id(tensor)] = _fake(tensor, mode)
                    replaced.append((table, name, tensor))
                    table[name] = fakes[id(tensor)]
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
