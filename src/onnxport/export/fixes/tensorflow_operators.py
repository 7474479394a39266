"""Operators of TensorFlow that tf2onnx does not know, each with its upstream cause."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def register_operators() -> None:
    """Teach tf2onnx the operators below; once a process."""
    from tf2onnx.handler import tf_op

    tf_op("Erfc")(_Erfc)


class _Erfc:
    """erfc(x) = 1 - erf(x).

    Upstream (tf2onnx 1.17): TensorFlow 2.19 and later compute the exact GELU with it, and tf2onnx, which was
    last released for older ones, has no handler: it logs an error and leaves the node as it is.
    """

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        import numpy as np
        from tf2onnx import utils

        shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
        (data,), outputs = node.input, list(node.output)
        ctx.remove_node(node.name)
        one = ctx.make_const(utils.make_name("one"), np.array(1.0, utils.map_onnx_to_numpy_type(dtype))).output[0]
        erf = ctx.make_node("Erf", [data], shapes=[shape], dtypes=[dtype]).output[0]
        ctx.make_node("Sub", [one, erf], outputs=outputs, shapes=[shape], dtypes=[dtype])
