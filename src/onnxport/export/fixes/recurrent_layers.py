"""Leave the time axis of LSTM and GRU layers dynamic while a model is traced.

Upstream (torch 2.13): the shape of `aten.lstm` and `aten.gru` is computed by a Python loop over the steps, so that
torch.export makes the time axis static: "your code specialized it to be a constant". torch has the same layers with
`while_loop`, whose number of steps stays dynamic; the captured program keeps the one operator of the layer, and
torch.onnx translates it into ONNX's LSTM or GRU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def dynamic_recurrence(model: torch.nn.Module) -> Iterator[None]:
    """Trace LSTM and GRU layers with a dynamic number of steps.

    Args:
        model: the module that is traced; nothing is changed where it has no such layer.
    """
    import torch
    from torch.export import _patches

    # Private in torch 2.13. With a version that lacks them the axis becomes static, and the user is told.
    layers = {
        torch.nn.LSTM: (torch.ops.aten.lstm.input, "register_lstm_while_loop_decomposition"),
        torch.nn.GRU: (torch.ops.aten.gru.input, "register_gru_while_loop_decomposition"),
    }
    with ExitStack() as stack:
        for kind, (operator, name) in layers.items():
            register = getattr(_patches, name, None)
            if register is not None and any(isinstance(layer, kind) for layer in model.modules()):
                # An operator remembers its kernel of an earlier call: neither before nor afterwards may that one stay.
                stack.callback(operator._dispatch_cache.clear)
                stack.enter_context(register())
                operator._dispatch_cache.clear()
        yield
