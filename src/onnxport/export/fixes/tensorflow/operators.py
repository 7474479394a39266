"""Add handlers that tf2onnx lacks, and fix wrong handlers and rewrites, each with its upstream cause (tf2onnx 1.17)."""

from __future__ import annotations

from functools import cache
from typing import Any

from onnxport.export.fixes.tensorflow.nodes import constant, remove_node
from onnxport.export.fixes.tensorflow.recurrent import CudnnRnn


@cache
def register_operators() -> None:
    """Register the handlers below with tf2onnx, and fix its rewrites; once per process."""
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
    _fix_roll()
    rewrites = back_to_back_optimizer._func_map
    rewrites["Reshape",] = _merge_reshapes_safely(rewrites["Reshape",])


class _Erfc:
    """erfc(x) = 1 - erf(x).

    Upstream: TensorFlow 2.19 and later compute the exact GELU with it. tf2onnx has no handler; it logs an error and
    leaves the node as it is.
    """

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        inputs, output = remove_node(ctx, node)
        erf = ctx.make_node("Erf", inputs, shapes=output["shapes"], dtypes=output["dtypes"]).output[0]
        ctx.make_node("Sub", [constant(ctx, 1.0, output["dtypes"][0]), erf], **output)


def _select() -> type[Any]:
    """Return the handler of tf.where(condition, x, y), which selects x or y.

    Upstream: tf2onnx writes condition * x + (1 - condition) * y, which was faster once, and uses Where only if it
    expects a NaN or an infinity. But the value that is not selected is often undefined: `tf.where(n > 0, x / n, 0)`, or
    the softmax of a row that is completely masked. Times 0 that is NaN.
    """
    from onnx import TensorProto
    from tf2onnx.onnx_opset.controlflow import Select

    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

    class ExactSelect(Select):  # type: ignore[misc]
        @classmethod
        def version_9(cls, ctx: Any, node: Any, **settings: Any) -> None:
            if ctx.get_dtype(node.output[0]) in floats:
                node.set_attr("handles_nan", True)  # makes tf2onnx use Where
            super().version_9(ctx, node, **settings)

    return ExactSelect


class _Expm1:
    """exp(x) - 1. Upstream: no handler. Keras' celu uses it."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        inputs, output = remove_node(ctx, node)
        power = ctx.make_node("Exp", inputs, shapes=output["shapes"], dtypes=output["dtypes"]).output[0]
        ctx.make_node("Sub", [power, constant(ctx, 1.0, output["dtypes"][0])], **output)


class _Xlogy:
    """x * log(y), and 0 where x is 0. Upstream: no handler. Entropies use it."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        (x, y), output = remove_node(ctx, node)
        zero = constant(ctx, 0.0, output["dtypes"][0])
        logarithm = ctx.make_node("Log", [y], dtypes=output["dtypes"]).output[0]
        product = ctx.make_node("Mul", [x, logarithm], dtypes=output["dtypes"]).output[0]
        none = ctx.make_node("Equal", [x, zero]).output[0]
        ctx.make_node("Where", [none, zero, product], **output)


class _Bucketize:
    """The number of boundaries that a value reaches. Upstream: no handler. Keras' Discretization uses it."""

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


def _fix_roll() -> None:
    """Fix `tf.roll(x, [2], [1])`, a shift that is a list of one.

    Upstream: the handler of Roll makes a list of a shift along one axis, even if it is one already, and ONNX Runtime
    rejects the slice. Here such a shift becomes a scalar first.
    """
    from tf2onnx.onnx_opset.tensor import Roll

    original = Roll.any_version.__func__

    def any_version(cls: Any, /, opset: int, ctx: Any, node: Any, **settings: Any) -> None:
        import numpy as np
        from tf2onnx import utils

        if ctx.get_rank(node.input[1]) == 1 and len(np.atleast_1d(node.inputs[2].get_tensor_value())) == 1:
            none = ctx.make_const(utils.make_name("number"), np.array([], np.int64)).output[0]
            number = ctx.make_node("Reshape", [node.input[1], none], dtypes=[ctx.get_dtype(node.input[1])]).output[0]
            ctx.replace_input(node, node.input[1], number, 1)
        original(cls, opset, ctx, node, **settings)

    Roll.any_version = classmethod(any_version)


class _XlaDynamicSlice:
    """`size` elements from `start` on; `start` is moved so that all elements exist.

    Upstream: no handler. transformers' T5 computes its relative positions with it, and relies on the move: without a
    past, it starts at the lowest integer.
    """

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **_: Any) -> None:
        import numpy as np
        from onnx import TensorProto
        from tf2onnx import utils

        shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
        (data, start, size), outputs = node.input, list(node.output)
        ctx.remove_node(node.name)

        def add_node(kind: str, *inputs: str, **attributes: Any) -> str:
            found: str = ctx.make_node(kind, list(inputs), attr=attributes).output[0]
            return found

        start, size = (add_node("Cast", name, to=TensorProto.INT64) for name in (start, size))
        zero = ctx.make_const(utils.make_name("zero"), np.array([0], np.int64)).output[0]
        start = add_node("Max", add_node("Min", start, add_node("Sub", add_node("Shape", data), size)), zero)
        ctx.make_node(
            "Slice", [data, start, add_node("Add", start, size)], outputs=outputs, shapes=[shape], dtypes=[dtype]
        )  # fmt: skip


def _merge_reshapes_safely(join: Any) -> Any:
    """Wrap the rewrite of two Reshapes into one: skip it if the second copies sizes (0) from the first.

    Upstream: tf2onnx removes the first in any case; a 0 then copies a size of another tensor. Every linear layer
    without a bias whose result is split into heads is such a pair.
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
    """Replace the removed coordinate mode of Resize by its equivalent floor((i + 0.5) * scale), in place.

    Upstream: tf2onnx writes `tf_half_pixel_for_nn` for nearest-neighbour resizing, which opset 13 removed; ONNX Runtime
    prints a warning.

    Args:
        model: the graph.
    """
    import onnx_ir as ir

    for graph in model.graphs():
        for node in graph:
            mode = node.attributes.get("coordinate_transformation_mode")
            if node.op_type == "Resize" and mode is not None and mode.as_string() == "tf_half_pixel_for_nn":
                node.attributes["coordinate_transformation_mode"] = ir.AttrString(mode.name, "half_pixel")
                node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "round_prefer_ceil")
