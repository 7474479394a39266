"""Fix tf2onnx's handlers for integers, each with its upstream cause (tf2onnx 1.17)."""

from __future__ import annotations

from functools import cache
from typing import Any

from onnxport.export.fixes.tensorflow.nodes import remove_node


@cache
def register_integer_operators() -> None:
    """Replace tf2onnx's handlers by those below; once per process."""
    from tf2onnx.handler import tf_op

    handlers: dict[str, Any] = {"FloorDiv": _FloorDiv, "FloorMod": _FloorMod, "OneHot": _OneHot, "TopKV2": _TopK}
    for name, handler in handlers.items():
        handler.before = staticmethod(_handler(name))
        tf_op(name)(handler)
    tf_op(["Less", "LessEqual", "Greater", "GreaterEqual"])(_Comparison)
    tf_op("TruncateMod")(_TruncateMod)
    tf_op(["UnsortedSegmentSum", "UnsortedSegmentProd"])(_Segments16)
    tf_op([f"UnsortedSegment{kind}" for kind in _REDUCTIONS])(_Segments18)


def _handler(name: str) -> Any:
    """Return tf2onnx's own handler of an operator, for opset 13 or older."""
    from tf2onnx.handler import tf_op
    from tf2onnx.tfonnx import constants

    known = tf_op.get_opsets()[constants.ONNX_DOMAIN][:14]
    handle, given = next(operators[name] for operators in reversed(known) if name in operators)

    def before(ctx: Any, node: Any, **settings: Any) -> None:
        if "onnx_op" in given:  # tf2onnx renames the node before it calls such a handler
            node.type = given["onnx_op"]
        handle(ctx, node, **settings, **{name: value for name, value in given.items() if name not in settings})

    return before


def _is_integer(dtype: int) -> bool:
    from onnx.helper import tensor_dtype_to_np_dtype

    return tensor_dtype_to_np_dtype(dtype).kind in "iu"


class _FloorDiv:
    """a // b, rounded down: the result of Div, minus one if the remainders of both roundings differ.

    Upstream: tf2onnx rounds floats down, but uses ONNX's Div for integers, which rounds towards zero: -7 // 2 becomes
    -3. (a - a mod b) / b would overflow near the lowest integer.
    """

    before: Any

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **settings: Any) -> None:
        if not _is_integer(ctx.get_dtype(node.input[0])):
            cls.before(ctx, node, **settings)
            return
        (a, b), output = remove_node(ctx, node)

        def add_node(kind: str, *inputs: str, **attributes: int) -> str:
            name: str = ctx.make_node(kind, list(inputs), attr=attributes, dtypes=output["dtypes"]).output[0]
            return name

        less = add_node("Div", add_node("Sub", add_node("Mod", a, b, fmod=1), add_node("Mod", a, b)), b)
        ctx.make_node("Add", [add_node("Div", a, b), less], **output)


class _FloorMod:
    """a mod b with the sign of b, which is ONNX's Mod for integers.

    Upstream: tf2onnx subtracts b times a quotient that is rounded towards zero: -7 % 2 becomes -1.
    """

    before: Any

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **settings: Any) -> None:
        if not _is_integer(ctx.get_dtype(node.input[0])):
            cls.before(ctx, node, **settings)
            return
        inputs, output = remove_node(ctx, node)
        ctx.make_node("Mod", inputs, **output)


class _TruncateMod:
    """a mod b with the sign of a, as in C. Upstream: no handler."""

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **_: Any) -> None:
        inputs, output = remove_node(ctx, node)
        ctx.make_node("Mod", inputs, attr={"fmod": 1}, **output)


class _OneHot:
    """Compare each index with each number below the depth.

    Upstream: tf2onnx uses ONNX's OneHot, which counts negative indices from the end; TensorFlow's row for them is all
    off. For other types than float it supports vectors only.
    """

    before: Any

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **settings: Any) -> None:
        import numpy as np
        from onnx import TensorProto
        from tf2onnx import utils

        indices = node.input[0]
        rank, dtype, axis = ctx.get_rank(indices), ctx.get_dtype(indices), node.get_attr("axis")
        if rank is None:
            cls.before(ctx, node, **settings)
            return
        (indices, depth, on, off), output = remove_node(ctx, node)
        axis = axis.i if axis is not None and axis.i >= 0 else rank

        def const(value: Any, kind: Any = np.int64) -> str:
            name: str = ctx.make_const(utils.make_name("onehot"), np.array(value, kind)).output[0]
            return name

        integer = utils.map_onnx_to_numpy_type(dtype)
        if integer not in (np.int32, np.int64):  # types that Range and Equal support
            dtype, integer = TensorProto.INT64, np.int64
            indices = ctx.make_node("Cast", [indices], attr={"to": dtype}).output[0]
        depth = ctx.make_node("Cast", [depth], attr={"to": dtype}).output[0]
        numbers = ctx.make_node("Range", [const(0, integer), depth, const(1, integer)]).output[0]
        if axis < rank:
            numbers = ctx.make_node("Reshape", [numbers, const([-1] + [1] * (rank - axis))]).output[0]
        indices = ctx.make_node("Unsqueeze", [indices, const([axis])]).output[0]
        hit = ctx.make_node("Equal", [indices, numbers]).output[0]
        (wanted,) = output["dtypes"]
        if wanted in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64):
            ctx.make_node("Where", [hit, on, off], **output)
            return
        wide = TensorProto.FLOAT if wanted == TensorProto.FLOAT16 else TensorProto.INT32
        on, off = (ctx.make_node("Cast", [name], attr={"to": wide}).output[0] for name in (on, off))
        # types that ONNX Runtime's Where supports
        chosen = ctx.make_node("Where", [hit, on, off], dtypes=[wide]).output[0]
        ctx.make_node("Cast", [chosen], attr={"to": wanted}, **output)


class _TopK:
    """Upstream: tf2onnx casts integers to float32, where neighbours are equal from 2^24 on."""

    before: Any

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **settings: Any) -> None:
        from onnx import TensorProto

        dtype = ctx.get_dtype(node.input[0])
        if dtype not in (TensorProto.INT32, TensorProto.INT64, TensorProto.DOUBLE):
            cls.before(ctx, node, **settings)
            return
        largest = {"sorted": node.get_attr_value("sorted", 1)}
        (data, count), output = remove_node(ctx, node)
        count = ctx.make_node("Cast", [count], attr={"to": TensorProto.INT64}).output[0]
        count = ctx.make_node("Reshape", [count, _one(ctx)]).output[0]
        values, indices = output["outputs"]
        shapes, dtypes = output["shapes"], output["dtypes"]
        top = ctx.make_node("TopK", [data, count], attr=largest, output_count=2, dtypes=[dtypes[0], TensorProto.INT64])
        ctx.make_node("Identity", [top.output[0]], outputs=[values], shapes=shapes[:1], dtypes=dtypes[:1])
        ctx.make_node(
            "Cast", [top.output[1]], attr={"to": dtypes[1]}, outputs=[indices], shapes=shapes[1:], dtypes=dtypes[1:]
        )  # fmt: skip


def _one(ctx: Any) -> str:
    import numpy as np
    from tf2onnx import utils

    name: str = ctx.make_const(utils.make_name("one"), np.array([1], np.int64)).output[0]
    return name


class _Comparison:
    """Upstream: tf2onnx compares integers as float32, where neighbours are equal from 2^24 on.

    Smaller types are compared as int64, also int32: tf2onnx declares another type for loop counters than it uses.
    """

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **_: Any) -> None:
        from onnx import TensorProto

        kind = node.type.replace("Equal", "OrEqual")
        dtype = ctx.get_dtype(node.input[0])
        target = TensorProto.FLOAT if dtype == TensorProto.FLOAT16 else None
        if dtype not in (TensorProto.INT64, TensorProto.UINT64) and _is_integer(dtype):
            target = TensorProto.INT64
        inputs, output = remove_node(ctx, node)
        if target is not None:
            inputs = [ctx.make_node("Cast", [name], attr={"to": target}).output[0] for name in inputs]
        ctx.make_node(kind, inputs, **output)


_REDUCTIONS = {"Sum": "add", "Prod": "mul", "Max": "max", "Min": "min"}


class _Segments16:
    """Reduce the rows of each segment; rows of negative segments go to an extra segment that is removed.

    Upstream: tf2onnx adds such rows to another segment, and an empty segment of a maximum or minimum is infinite
    instead of the type's lowest or highest number. ONNX's ScatterND has sums and products from opset 16 on, maxima and
    minima from 18 on; below, tf2onnx's own handler is used.
    """

    @classmethod
    def version_16(cls, ctx: Any, node: Any, **_: Any) -> None:
        import numpy as np
        from onnx import TensorProto
        from onnx.helper import tensor_dtype_to_np_dtype
        from tf2onnx import utils

        kind, rank = node.type.removeprefix("UnsortedSegment"), ctx.get_rank(node.input[1])
        dtype = tensor_dtype_to_np_dtype(ctx.get_dtype(node.input[0]))
        limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        (data, ids, count), output = remove_node(ctx, node)

        def const(value: Any, of: Any = np.int64) -> str:
            name: str = ctx.make_const(utils.make_name("segments"), np.array(value, of)).output[0]
            return name

        def add_node(operator: str, *inputs: str, **attributes: Any) -> str:
            name: str = ctx.make_node(operator, list(inputs), attr=attributes).output[0]
            return name

        ids, count = (add_node("Cast", name, to=TensorProto.INT64) for name in (ids, count))
        count = add_node("Reshape", count, const([1]))
        ids = add_node("Where", add_node("Less", ids, const(0)), count, ids)
        inner = add_node("Slice", add_node("Shape", data), const([rank]), const([np.iinfo(np.int64).max]))
        shape = add_node("Concat", add_node("Add", count, const([1])), inner, axis=0)
        empty = {"Sum": 0, "Prod": 1, "Max": limits.min, "Min": limits.max}[kind]
        base = add_node("Expand", const(empty, dtype), shape)
        found = add_node("ScatterND", base, add_node("Unsqueeze", ids, const([-1])), data, reduction=_REDUCTIONS[kind])
        ctx.make_node("Slice", [found, const([0]), count, const([0])], **output)


class _Segments18:
    """Maxima and minima, as in `_Segments16`."""

    @classmethod
    def version_18(cls, ctx: Any, node: Any, **settings: Any) -> None:
        _Segments16.version_16(ctx, node, **settings)
