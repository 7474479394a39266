"""Fixes, registered by name: for a model's code while it is traced, and for captured graphs.

Each fix is one file that names its upstream cause; `tests/integration/test_fixes.py` shows the failure without it.
A fix matches a pattern, never the name of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from onnxport.export.fixes.attention_mask import expand_attention_masks
from onnxport.export.fixes.block_attention import block_attention
from onnxport.export.fixes.linear_recurrences import linear_recurrences
from onnxport.export.fixes.one_key_head import one_key_head
from onnxport.export.fixes.ordered_sets import ordered_sets
from onnxport.export.fixes.pooling import dynamic_pooling
from onnxport.export.fixes.precise_fourier import precise_transforms
from onnxport.export.fixes.recurrent_layers import dynamic_recurrence
from onnxport.export.fixes.rotary_cache import expand_rotary_caches
from onnxport.export.fixes.small_sigmoids import precise_sigmoids
from onnxport.export.fixes.symbolic_int import symbolic_int
from onnxport.export.fixes.window_attention import window_attention
from onnxport.graph.origins import touched_by

if TYPE_CHECKING:
    import onnx_ir
    import torch

TRACE_FIXES: dict[str, Callable[[torch.nn.Module], AbstractContextManager[None]]] = {
    "symbolic-int": symbolic_int,
    "one-key-head": one_key_head,
    "ordered-sets": ordered_sets,
    "recurrent-layers": dynamic_recurrence,
    "linear-recurrences": linear_recurrences,
    "window-attention": window_attention,
    "block-attention": block_attention,
    "dynamic-pooling": dynamic_pooling,
}

GRAPH_FIXES: dict[str, Callable[[onnx_ir.Model], int]] = {
    "attention-mask-rows": expand_attention_masks,
    "rotary-cache-rows": expand_rotary_caches,
    "small-sigmoids": precise_sigmoids,
    "precise-fourier": precise_transforms,
}


def apply_graph_fixes(model: onnx_ir.Model) -> tuple[str, ...]:
    """Apply all graph fixes, in place.

    Args:
        model: a captured graph.

    Returns:
        Names of the fixes that changed something.
    """
    applied = []
    for name, fix in GRAPH_FIXES.items():
        with touched_by(name, model):
            if fix(model):
                applied.append(name)
    return tuple(applied)


@contextmanager
def trace_fixes(model: torch.nn.Module) -> Iterator[None]:
    """Apply all fixes of model code while the model is traced, and undo them afterwards.

    Args:
        model: the module that is traced.
    """
    with ExitStack() as stack:
        for fix in TRACE_FIXES.values():
            stack.enter_context(fix(model))
        yield
