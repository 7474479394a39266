"""Trace attention with windows and global tokens as one attention over all pairs of tokens with a mask.

Upstream (transformers 5.23): the layers of longformer and led cut a sequence into overlapping chunks, for which the
model fills it up to a multiple of its window, and gather the tokens with global attention, however many they are. The
one makes the length static, the other sizes depend on values: "Could not guard on data-dependent expression". All pairs
give the same numbers at any length; memory grows with the square of the length, not with the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.system.replaced import replaced

if TYPE_CHECKING:
    import torch

_LAYER = ("one_sided_attn_window_size", "query_global", "key_global", "value_global")
_FILL_UP = "_pad_to_window_size"


@contextmanager
def window_attention(model: torch.nn.Module) -> Iterator[None]:
    """Put attention over all pairs in the place of the layers.

    Args:
        model: the module that is traced; nothing is changed where it has no such layer.
    """
    kinds = {type(part) for part in model.modules() if all(hasattr(part, name) for name in _LAYER)}
    filled = {type(part) for part in model.modules() if kinds and hasattr(part, _FILL_UP)}
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(replaced(kind, "forward", _attend))
        for kind in filled:
            stack.enter_context(replaced(kind, _FILL_UP, _as_given))
        yield


def _as_given(self: Any, *, pad_token_id: int, **given: Any) -> tuple[Any, ...]:
    """Nothing is filled up: the number of tokens that were added, and the inputs in the order of the call."""
    return 0, *given.values()


def _attend(
    self: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor]:
    """`LongformerSelfAttention.forward` (Beltagy et al. 2020, section 3.1).

    Args:
        hidden_states: (rows, tokens, width).
        attention_mask: (rows, tokens); below 0: no attention, 0: within the window, above 0: with all tokens.

    Returns:
        (rows, tokens, width); zeros for tokens without attention.
    """
    import torch

    rows, tokens, width = hidden_states.shape

    def heads(layer: torch.nn.Module) -> torch.Tensor:
        return layer(hidden_states).view(rows, tokens, self.num_heads, self.head_dim).transpose(1, 2)  # type: ignore[no-any-return]

    def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        scores = (query / self.head_dim**0.5) @ key.transpose(2, 3)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype) @ value

    places = torch.arange(tokens, device=hidden_states.device)
    near = (places[:, None] - places[None, :]).abs() <= self.one_sided_attn_window_size
    masked, everywhere = (attention_mask < 0)[:, None, :], (attention_mask > 0)[:, None, :]
    seen = ((near & ~masked) | everywhere)[:, None]
    found = attended(heads(self.query), heads(self.key), heads(self.value), seen)
    found = found.masked_fill(masked[:, :, :, None], 0.0)
    of_all = attended(heads(self.query_global), heads(self.key_global), heads(self.value_global), ~masked[:, None])
    found = torch.where(everywhere[:, :, :, None], of_all, found)
    return (found.transpose(1, 2).reshape(rows, tokens, width),)
