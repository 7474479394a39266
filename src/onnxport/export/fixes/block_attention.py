"""Trace attention within blocks of tokens as one attention over all pairs of tokens with a mask.

Upstream (transformers 5.23): the local layers of canine cut a sequence into blocks in a Python loop, `for chunk_start
in range(0, seq_length, stride)`, which makes the number of blocks, and with it the length, static. All pairs with a
mask give the same numbers at any length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.system.replaced import replaced

if TYPE_CHECKING:
    import torch

_SIZES = ("attend_from_chunk_width", "attend_from_chunk_stride", "attend_to_chunk_width", "attend_to_chunk_stride")
_FLAGS = ("local", "always_attend_to_first_position", "first_position_attends_to_all")


@contextmanager
def block_attention(model: torch.nn.Module) -> Iterator[None]:
    """Put attention over all pairs in the place of layers whose blocks do not overlap.

    Args:
        model: the module that is traced; nothing is changed where it has no such layer.
    """
    with ExitStack() as stack:
        for kind in {type(part) for part in model.modules() if _is_within_blocks(part)}:
            stack.enter_context(replaced(kind, "forward", _with_mask(kind.forward)))
        yield


def _is_within_blocks(part: Any) -> bool:
    """Whether every token of a layer attends to the tokens of its block, and to no other."""
    if not all(hasattr(part, name) for name in (*_SIZES, *_FLAGS)):
        return False
    one_size = len({getattr(part, name) for name in _SIZES}) == 1
    return one_size and [bool(getattr(part, name)) for name in _FLAGS] == [True, False, False]


def _with_mask(original: Any) -> Any:
    def forward(self: Any, hidden_states: Any, attention_mask: Any = None, output_attentions: Any = False) -> Any:
        import torch

        if attention_mask is None or not _is_within_blocks(self):
            return original(self, hidden_states, attention_mask, output_attentions)
        blocks = torch.arange(hidden_states.shape[1], device=hidden_states.device) // self.attend_from_chunk_width
        same = (blocks[:, None] == blocks[None, :])[None]
        # The layer adds (1 - mask) times the lowest number of its type: minus infinity here, below all of the block.
        found = self.self(
            hidden_states, hidden_states, torch.where(same, attention_mask, -torch.ones_like(attention_mask)),
            output_attentions,
        )  # fmt: skip
        return (self.output(found[0], hidden_states), *found[1:])

    return forward
