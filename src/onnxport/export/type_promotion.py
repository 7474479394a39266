"""Insert torch.onnx's casts without another run of the program.

Upstream (torch 2.13): the pass that makes the promotion of types explicit runs the exported program once more on fake
tensors, to know the type of every value. That took a sixth of the time of a small model's export. The trace has
recorded these values already, so only the operators that the pass changes are run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def promote_recorded_types() -> Iterator[None]:
    """Take the types of values from the record of the trace, while torch.onnx exports."""
    try:
        from torch.onnx._internal.fx.passes import type_promotion
    except ImportError:  # another version of torch is only slower
        yield
        return
    interpreter: Any = getattr(type_promotion, "_TypePromotionInterpreter", None)
    find_rule: Any = getattr(type_promotion, "get_type_promotion_rule", None)
    if interpreter is None or find_rule is None:
        yield
        return
    original = interpreter.run_node

    def run_node(self: Any, node: torch.fx.Node) -> Any:
        if node.op != "call_function" or "val" not in node.meta:
            return original(self, node)
        with self._set_current_node(node):
            if rule := find_rule(node, self.type_promotion_table):
                self._maybe_promote_node(node, rule)  # runs the node, and records its value, where it changes
        return node.meta["val"]

    interpreter.run_node = run_node
    try:
        yield
    finally:
        interpreter.run_node = original
