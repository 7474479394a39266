"""What handlers of tf2onnx need: a node's place in its graph, and numbers beside it."""

from __future__ import annotations

from typing import Any


def taken_out(ctx: Any, node: Any) -> tuple[list[str], dict[str, Any]]:
    """Take `node` out of the graph; its inputs, and what its successor needs to take its place."""
    inputs = list(node.input)
    place = {"outputs": list(node.output), "shapes": node.output_shapes, "dtypes": node.output_dtypes}
    ctx.remove_node(node.name)
    return inputs, place


def number(ctx: Any, value: float, dtype: int) -> str:
    """The name of a constant of an ONNX type."""
    import numpy as np
    from tf2onnx import utils

    made = ctx.make_const(utils.make_name("number"), np.array(value, utils.map_onnx_to_numpy_type(dtype)))
    name: str = made.output[0]
    return name
