"""Repairs of captured graphs, registered by name.

Each is one file with its upstream cause; `tests/integration/test_fixes.py` shows the failure that
it mends. A repair acts on a pattern, never on a model's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.export.fixes.attention_mask import expand_attention_masks
from onnxport.export.fixes.rotary_cache import expand_rotary_caches

if TYPE_CHECKING:
    import onnx_ir

GRAPH_FIXES: dict[str, Callable[[onnx_ir.Model], int]] = {
    "attention-mask-rows": expand_attention_masks,
    "rotary-cache-rows": expand_rotary_caches,
}


def apply_graph_fixes(model: onnx_ir.Model) -> tuple[str, ...]:
    """Apply all repairs in place; returns the names of those that changed something."""
    return tuple(name for name, fix in GRAPH_FIXES.items() if fix(model))
