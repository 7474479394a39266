"""What tf2onnx 1.17 does wrong with whole numbers, each with its upstream cause."""

from __future__ import annotations

from functools import cache
from typing import Any

from onnxport.export.fixes.tensorflow.nodes import taken_out


@cache
def register_integer_operators() -> None:
    """Replace tf2onnx's handlers by those below; once a process."""
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
    """What tf2onnx itself does with an operator, of opset 13 or older."""
    from tf2onnx.handler import tf_op
    from tf2onnx.tfonnx import constants

    known = tf_op.get_opsets()[constants.ONNX_DOMAIN][:14]
    handle, given = next(operators[name] for operators in reversed(known) if name in operators)

    def before(ctx: Any, node: Any, **settings: Any) -> None:
        if "onnx_op" in given:  # tf2onnx renames the node before it calls a handler that was registered so
            node.type = given["onnx_op"]
        handle(ctx, node, **settings, **{name: value for name, value in given.items() if name not in settings})

    return before


def _is_whole(dtype: int) -> bool:
    from onnx.helper import tensor_dtype_to_np_dtype

    return tensor_dtype_to_np_dtype(dtype).kind in "iu"


class _FloorDiv:
    """a // b, rounded down: what Div gives, and one less where the two remainders differ, by b.

    Upstream: tf2onnx rounds floats down and leaves whole numbers to ONNX's Div, which rounds towards zero: -7 // 2
    is -3. (a - a mod b) / b would leave the type near its lowest number.
    """

    before: Any

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **settings: Any) -> None:
        if not _is_whole(ctx.get_dtype(node.input[0])):
            cls.before(ctx, node, **settings)
            return
        (a, b), place = taken_out(ctx, node)

        def make(kind: str, *inputs: str, **attributes: int) -> str:
            name: str = ctx.make_node(kind, list(inputs), attr=attributes, dtypes=place["dtypes"]).output[0]
            return name

        less = make("Div", make("Sub", make("Mod", a, b, fmod=1), make("Mod", a, b)), b)
        ctx.make_node("Add", [make("Div", a, b), less], **place)


class _FloorMod:
    """a mod b with the sign of b, which is what ONNX's Mod gives for whole numbers.

    Upstream: tf2onnx subtracts b times a quotient that was rounded towards zero: -7 % 2 is -1.
    """

    before: Any

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **settings: Any) -> None:
        if not _is_whole(ctx.get_dtype(node.input[0])):
            cls.before(ctx, node, **settings)
            return
        inputs, place = taken_out(ctx, node)
        ctx.make_node("Mod", inputs, **place)


class _TruncateMod:
    """a mod b with the sign of a (`tf.math.mod` of C). Upstream: no handler."""

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **_: Any) -> None:
        inputs, place = taken_out(ctx, node)
        ctx.make_node("Mod", inputs, attr={"fmod": 1}, **place)


class _OneHot:
    """Whether an index is equal to each number below the depth.

    Upstream: tf2onnx uses ONNX's OneHot, which counts a negative index from the end; TensorFlow's row for it is all
    off. For other types than float it knows vectors only.
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
        (indices, depth, on, off), place = taken_out(ctx, node)
        axis = axis.i if axis is not None and axis.i >= 0 else rank

        def const(value: Any, kind: Any = np.int64) -> str:
            name: str = ctx.make_const(utils.make_name("onehot"), np.array(value, kind)).output[0]
            return name

        integer = utils.map_onnx_to_numpy_type(dtype)
        if integer not in (np.int32, np.int64):  # Range and Equal know these
            dtype, integer = TensorProto.INT64, np.int64
            indices = ctx.make_node("Cast", [indices], attr={"to": dtype}).output[0]
        depth = ctx.make_node("Cast", [depth], attr={"to": dtype}).output[0]
        numbers = ctx.make_node("Range", [const(0, integer), depth, const(1, integer)]).output[0]
        if axis < rank:
            numbers = ctx.make_node("Reshape", [numbers, const([-1] + [1] * (rank - axis))]).output[0]
        indices = ctx.make_node("Unsqueeze", [indices, const([axis])]).output[0]
        hit = ctx.make_node("Equal", [indices, numbers]).output[0]
        (wanted,) = place["dtypes"]
        if wanted in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64):
            ctx.make_node("Where", [hit, on, off], **place)
            return
        wide = TensorProto.FLOAT if wanted == TensorProto.FLOAT16 else TensorProto.INT32
        on, off = (ctx.make_node("Cast", [name], attr={"to": wide}).output[0] for name in (on, off))
        chosen = ctx.make_node("Where", [hit, on, off], dtypes=[wide]).output[0]  # ONNX Runtime knows these types
        ctx.make_node("Cast", [chosen], attr={"to": wanted}, **place)


class _TopK:
    """Upstream: tf2onnx casts whole numbers to float32, which are equal to their neighbours from 2**24 on."""

    before: Any

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **settings: Any) -> None:
        from onnx import TensorProto

        dtype = ctx.get_dtype(node.input[0])
        if dtype not in (TensorProto.INT32, TensorProto.INT64, TensorProto.DOUBLE):
            cls.before(ctx, node, **settings)
            return
        largest = {"sorted": node.get_attr_value("sorted", 1)}
        (data, count), place = taken_out(ctx, node)
        count = ctx.make_node("Cast", [count], attr={"to": TensorProto.INT64}).output[0]
        count = ctx.make_node("Reshape", [count, _one(ctx)]).output[0]
        values, indices = place["outputs"]
        shapes, dtypes = place["shapes"], place["dtypes"]
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
    """Upstream: tf2onnx compares whole numbers as float32, which are equal to their neighbours from 2**24 on.

    Smaller types are compared as int64, also int32: tf2onnx counts the turns of a loop with another type than it says.
    """

    @classmethod
    def version_13(cls, ctx: Any, node: Any, **_: Any) -> None:
        from onnx import TensorProto

        kind = node.type.replace("Equal", "OrEqual")
        dtype = ctx.get_dtype(node.input[0])
        target = TensorProto.FLOAT if dtype == TensorProto.FLOAT16 else None
        if dtype not in (TensorProto.INT64, TensorProto.UINT64) and _is_whole(dtype):
            target = TensorProto.INT64
        inputs, place = taken_out(ctx, node)
        if target is not None:
            inputs = [ctx.make_node("Cast", [name], attr={"to": target}).output[0] for name in inputs]
        ctx.make_node(kind, inputs, **place)


_REDUCTIONS = {"Sum": "add", "Prod": "mul", "Max": "max", "Min": "min"}


class _Segments16:
    """Rows of a segment reduced to one; a row of a negative segment is left out, by giving it one that is cut off.

    Upstream: tf2onnx gives such rows to another segment, and an empty segment of a maximum or minimum is infinite
    instead of the type's lowest or highest number. ONNX's ScatterND knows sums and products from opset 16 on, maxima
    and minima from 18 on; below it tf2onnx's handler stays.
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
        (data, ids, count), place = taken_out(ctx, node)

        def const(value: Any, of: Any = np.int64) -> str:
            name: str = ctx.make_const(utils.make_name("segments"), np.array(value, of)).output[0]
            return name

        def make(operator: str, *inputs: str, **attributes: Any) -> str:
            name: str = ctx.make_node(operator, list(inputs), attr=attributes).output[0]
            return name

        ids, count = (make("Cast", name, to=TensorProto.INT64) for name in (ids, count))
        count = make("Reshape", count, const([1]))
        ids = make("Where", make("Less", ids, const(0)), count, ids)
        inner = make("Slice", make("Shape", data), const([rank]), const([np.iinfo(np.int64).max]))
        shape = make("Concat", make("Add", count, const([1])), inner, axis=0)
        empty = {"Sum": 0, "Prod": 1, "Max": limits.min, "Min": limits.max}[kind]
        base = make("Expand", const(empty, dtype), shape)
        found = make("ScatterND", base, make("Unsqueeze", ids, const([-1])), data, reduction=_REDUCTIONS[kind])
        ctx.make_node("Slice", [found, const([0]), count, const([0])], **place)


class _Segments18:
    """As above."""

    @classmethod
    def version_18(cls, ctx: Any, node: Any, **settings: Any) -> None:
        _Segments16.version_16(ctx, node, **settings)
