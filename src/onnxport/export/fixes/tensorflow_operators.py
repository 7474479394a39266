"""What tf2onnx does not know or does wrong: operators of TensorFlow and rewritings, each with its upstream cause."""

from __future__ import annotations

from functools import cache
from typing import Any

from onnxport.export.fixes.tensorflow_recurrent import CudnnRnn


@cache
def register_operators() -> None:
    """Teach tf2onnx the operators below, and put its rewritings right; once a process."""
    from tf2onnx.handler import tf_op
    from tf2onnx.optimizer import back_to_back_optimizer

    tf_op("Erfc")(_Erfc)
    tf_op("XlaDynamicSlice")(_XlaDynamicSlice)
    tf_op("CudnnRNNV3")(CudnnRnn)
    tf_op(["Select", "SelectV2"])(_select())
    rewritings = back_to_back_optimizer._func_map
    rewritings["Reshape",] = _only_of_sizes(rewritings["Reshape",])


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


def _select() -> type[Any]:
    """The handler of tf.where(condition, x, y), which gives x or y.

    Upstream (tf2onnx 1.17): it writes condition * x + (1 - condition) * y, because that was faster once, and only
    where it sees a NaN or an infinity coming another operator. But what is not chosen is often one that nobody sees:
    `tf.where(n > 0, x / n, 0)`, or the softmax of a row of which everything is hidden. Times 0 that is NaN.
    """
    from onnx import TensorProto
    from tf2onnx.onnx_opset.controlflow import Select

    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

    class Chosen(Select):  # type: ignore[misc]
        @classmethod
        def version_9(cls, ctx: Any, node: Any, **settings: Any) -> None:
            if ctx.get_dtype(node.output[0]) in floats:
                node.set_attr("handles_nan", True)  # what tf2onnx itself asks for
            super().version_9(ctx, node, **settings)

    return Chosen


class _XlaDynamicSlice:
    """`size` elements from `start` on, where a start too far to the left or right is moved until they are there.

    Upstream (tf2onnx 1.17): no handler. transformers' T5 takes its relative positions with it, and relies on the
    moving: without a past it begins at the smallest integer.
    """

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **_: Any) -> None:
        import numpy as np
        from onnx import TensorProto
        from tf2onnx import utils

        shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
        (data, start, size), outputs = node.input, list(node.output)
        ctx.remove_node(node.name)

        def make(kind: str, *inputs: str, **attributes: Any) -> str:
            found: str = ctx.make_node(kind, list(inputs), attr=attributes).output[0]
            return found

        start, size = (make("Cast", name, to=TensorProto.INT64) for name in (start, size))
        zero = ctx.make_const(utils.make_name("zero"), np.array([0], np.int64)).output[0]
        start = make("Max", make("Min", start, make("Sub", make("Shape", data), size)), zero)
        ctx.make_node(
            "Slice", [data, start, make("Add", start, size)], outputs=outputs, shapes=[shape], dtypes=[dtype]
        )  # fmt: skip


def _only_of_sizes(join: Any) -> Any:
    """The rewriting of two Reshapes into one, left out where the second copies sizes (0) of what the first made.

    Upstream (tf2onnx 1.17): it takes the first out whatever the second says; a 0 then copies a size of another
    tensor. Every linear layer without a bias whose result is split into heads is such a pair.
    """

    def joined(graph: Any, node: Any, consumers: list[Any]) -> list[Any]:
        for consumer in consumers:
            shape = consumer.inputs[1] if len(consumer.input) > 1 else None
            if shape is None or not shape.is_const() or 0 in shape.get_tensor_value():
                return []
        result: list[Any] = join(graph, node, consumers)
        return result

    return joined
