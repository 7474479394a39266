"""Expand keys and values with a single head to all heads while tracing.

Upstream (torch 2.13): torch broadcasts one head of keys over the heads of the queries, torch.onnx does not: "SDPA (MHA)
requires q_num_heads = kv_num_heads" (torch/onnx/_internal/exporter/_torchlib/ops/nn.py). falcon with `multi_query` is
affected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.system.replaced import replaced

if TYPE_CHECKING:
    import torch


@contextmanager
def one_key_head(model: torch.nn.Module) -> Iterator[None]:
    """Patch `scaled_dot_product_attention` to expand `key` and `value` to the heads of `query` if they have one head.

    Args:
        model: not used; every trace fix takes it.
    """
    from torch.nn import functional

    original = functional.scaled_dot_product_attention

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if key.ndim == 4 and key.shape[1] == 1 and query.shape[1] != 1 and not kwargs.get("enable_gqa"):
            key = key.expand(-1, query.shape[1], -1, -1)
            value = value.expand(-1, query.shape[1], -1, -1)
        return original(query, key, value, *args, **kwargs)

    with replaced(functional, "scaled_dot_product_attention", attention):
        yield
