"""Helpers for tf2onnx handlers: remove a node, add a constant."""

from __future__ import annotations

from typing import Any


def remove_node(ctx: Any, node: Any) -> tuple[list[str], dict[str, Any]]:
    """Remove `node` from its graph.

    Args:
        ctx: tf2onnx's graph.
        node: the node.

    Returns:
        Names of its inputs, and the arguments of `make_node` for a node that replaces it.
    """
    inputs = list(node.input)
    output = {"outputs": list(node.output), "shapes": node.output_shapes, "dtypes": node.output_dtypes}
    ctx.remove_node(node.name)
    return inputs, output


def constant(ctx: Any, value: float, dtype: int) -> str:
    """Add a constant to the graph.

    Args:
        ctx: tf2onnx's graph.
        value: its value.
        dtype: its ONNX type.

    Returns:
        Its name.
    """
    import numpy as np
    from tf2onnx import utils

    made = ctx.make_const(utils.make_name("number"), np.array(value, utils.map_onnx_to_numpy_type(dtype)))
    name: str = made.output[0]
    return name
