"""What tf2onnx does not know or does wrong: operators of TensorFlow and rewritings, each with its upstream cause."""

from __future__ import annotations

from functools import cache
from typing import Any

from onnxport.export.fixes.tensorflow.nodes import number, taken_out
from onnxport.export.fixes.tensorflow.recurrent import CudnnRnn


@cache
def register_operators() -> None:
    """Teach tf2onnx the operators below, and put its rewritings right; once a process."""
    from tf2onnx.handler import tf_op
    from tf2onnx.optimizer import back_to_back_optimizer

    from onnxport.export.fixes.tensorflow.integers import register_integer_operators

    tf_op("Erfc")(_Erfc)
    tf_op("Expm1")(_Expm1)
    tf_op("Xlogy")(_Xlogy)
    tf_op("Bucketize")(_Bucketize)
    tf_op("XlaDynamicSlice")(_XlaDynamicSlice)
    tf_op("CudnnRNNV3")(CudnnRnn)
    tf_op(["Select", "SelectV2"])(_select())
    register_integer_operators()
    _shift_along_one_axis()
    rewritings = back_to_back_optimizer._func_map
    rewritings["Reshape",] = _only_of_sizes(rewritings["Reshape",])


class _Erfc:
    """erfc(x) = 1 - erf(x).

    Upstream (tf2onnx 1.17): TensorFlow 2.19 and later compute the exact GELU with it, and tf2onnx, which was
    last released for older ones, has no handler: it logs an error and leaves the node as it is.
    """

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        inputs, place = taken_out(ctx, node)
        erf = ctx.make_node("Erf", inputs, shapes=place["shapes"], dtypes=place["dtypes"]).output[0]
        ctx.make_node("Sub", [number(ctx, 1.0, place["dtypes"][0]), erf], **place)


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


class _Expm1:
    """exp(x) - 1. Upstream (tf2onnx 1.17): no handler. Keras' celu computes with it."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        inputs, place = taken_out(ctx, node)
        power = ctx.make_node("Exp", inputs, shapes=place["shapes"], dtypes=place["dtypes"]).output[0]
        ctx.make_node("Sub", [power, number(ctx, 1.0, place["dtypes"][0])], **place)


class _Xlogy:
    """x * log(y), and 0 where x is 0. Upstream (tf2onnx 1.17): no handler. Entropies are computed with it."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        (x, y), place = taken_out(ctx, node)
        zero = number(ctx, 0.0, place["dtypes"][0])
        logarithm = ctx.make_node("Log", [y], dtypes=place["dtypes"]).output[0]
        product = ctx.make_node("Mul", [x, logarithm], dtypes=place["dtypes"]).output[0]
        none = ctx.make_node("Equal", [x, zero]).output[0]
        ctx.make_node("Where", [none, zero, product], **place)


class _Bucketize:
    """How many boundaries a number reaches. Upstream (tf2onnx 1.17): no handler. Keras' Discretization is this."""

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **_: Any) -> None:
        import numpy as np
        from onnx import TensorProto
        from tf2onnx import utils

        shape, boundaries = ctx.get_shape(node.output[0]), list(node.get_attr("boundaries").floats)
        (data,), outputs = node.input, list(node.output)
        ctx.remove_node(node.name)
        if ctx.get_dtype(data) != TensorProto.FLOAT:
            data = ctx.make_node("Cast", [data], attr={"to": TensorProto.FLOAT}).output[0]

        def const(value: Any, kind: Any) -> str:
            name: str = ctx.make_const(utils.make_name("bucketize"), np.array(value, kind)).output[0]
            return name

        last = const([-1], np.int64)
        numbers = ctx.make_node("Unsqueeze", [data, last]).output[0]
        reached = ctx.make_node("GreaterOrEqual", [numbers, const(boundaries, np.float32)]).output[0]
        ones = ctx.make_node("Cast", [reached], attr={"to": TensorProto.INT32}).output[0]
        ctx.make_node(
            "ReduceSum", [ones, last], attr={"keepdims": 0}, outputs=outputs, shapes=[shape], dtypes=[TensorProto.INT32]
        )  # fmt: skip


def _shift_along_one_axis() -> None:
    """`tf.roll(x, [2], [1])`, a shift that is a list of one.

    Upstream (tf2onnx 1.17): its handler of Roll makes a list of a shift along one axis, also where it is one already;
    ONNX Runtime refuses the slice. Here such a shift is made a number first.
    """
    from tf2onnx.onnx_opset.tensor import Roll

    original = Roll.any_version.__func__

    def any_version(cls: Any, opset: int, ctx: Any, node: Any, **settings: Any) -> None:
        import numpy as np
        from tf2onnx import utils

        if ctx.get_rank(node.input[1]) == 1 and len(np.atleast_1d(node.inputs[2].get_tensor_value())) == 1:
            none = ctx.make_const(utils.make_name("number"), np.array([], np.int64)).output[0]
            number = ctx.make_node("Reshape", [node.input[1], none], dtypes=[ctx.get_dtype(node.input[1])]).output[0]
            ctx.replace_input(node, node.input[1], number, 1)
        original(cls, opset, ctx, node, **settings)

    Roll.any_version = classmethod(any_version)


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


def fix_resize_coordinates(model: Any) -> None:
    """floor((i + 0.5) * scale), in place, without a word that ONNX took back.

    Upstream (tf2onnx 1.17): it writes `tf_half_pixel_for_nn` for the nearest pixel, which opset 13 removed; ONNX
    Runtime warns on the terminal.
    """
    import onnx_ir as ir

    for graph in model.graphs():
        for node in graph:
            mode = node.attributes.get("coordinate_transformation_mode")
            if node.op_type == "Resize" and mode is not None and mode.as_string() == "tf_half_pixel_for_nn":
                node.attributes["coordinate_transformation_mode"] = ir.AttrString(mode.name, "half_pixel")
                node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "round_prefer_ceil")
