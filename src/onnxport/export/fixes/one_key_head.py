"""Keys and values with one head for all queries are repeated for every head while tracing.

Upstream: torch lets one head of keys broadcast over the heads of the queries, torch.onnx's translation
does not: "SDPA (MHA) requires q_num_heads = kv_num_heads" (torch/onnx/_internal/exporter/_torchlib/ops/nn.py,
torch 2.13). falcon with `multi_query` meets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def one_key_head(model: torch.nn.Module) -> Iterator[None]:
    """Attention in which `key` and `value` are given as many heads as `query` when they have one."""
    from torch.nn import functional

    original = functional.scaled_dot_product_attention

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if key.ndim == 4 and key.shape[1] == 1 and query.shape[1] != 1 and not kwargs.get("enable_gqa"):
            key = key.expand(-1, query.shape[1], -1, -1)
            value = value.expand(-1, query.shape[1], -1, -1)
        return original(query, key, value, *args, **kwargs)

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original
