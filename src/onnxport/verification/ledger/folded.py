"""Constants of a new graph that an optimizer computed ahead of time from constants of the old graph.

They are computed again with numpy, node by node: only operators that are listed here, and only after the size of a
result is known, so a graph of unknown origin cannot take much memory or time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.formats.graph_tensors import FileTensor

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]

# Relative to the largest element: float32 sums in another order.
_RELATIVE = 1e-5
# Larger numbers stand for "masked". They say nothing about the precision of the others.
_MASKED = 1e4
_MOST_NODES = 500  # behind one constant
_MOST_ELEMENTS = 2**28  # of all results that one constant needs: 1 GiB of float32
_MOST_SIZES = 1024  # elements of an input whose values may say how large a result is
_MOST_WORK = 2**38  # multiplications for all constants of a graph: about 20 s
_WORK_OF_ELEMENT = 16  # of a result of anything but a product
_OPERATORS = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos", "Div", "Equal", "Erf", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "GatherElements", "Greater", "GreaterOrEqual", "Identity",
    "LayerNormalization", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow",
    "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Round", "Shape",
    "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "Transpose",
    "Unsqueeze", "Where",
})  # fmt: skip


class _NotComputedError(Exception):
    """A value is not computed here: it needs an input, another operator, or too much memory or time."""


@dataclass
class _Base:
    """An old graph.

    Attributes:
        model: its nodes.
        values: what its nodes give, by name.
        order: the place of each node in the graph, by identity.
        constants: its weights by name.
    """

    model: ir.Model
    values: dict[str, ir.Value]
    order: dict[int, int]
    constants: dict[str, FileTensor]


class FoldedValues:
    """Computes values of graphs again that depend on their constants alone.

    Args:
        files: graph files. They are loaded when the first value is asked for.
        tensors: the constants of each file.
    """

    def __init__(self, files: Sequence[Path], tensors: Sequence[Sequence[FileTensor]]) -> None:
        self._files, self._tensors = files, tensors
        self._loaded: list[_Base] | None = None
        self._work = _MOST_WORK  # that is left

    def weights_behind(self, tensor: FileTensor) -> list[str] | None:
        """The constants that `tensor` was computed from; None unless an old graph has a value of its name and numbers.

        Args:
            tensor: a constant of the new graph.
        """
        if self._loaded is None:
            self._loaded = [_load(file, known) for file, known in zip(self._files, self._tensors, strict=True)]
        for base in self._loaded:
            value = base.values.get(tensor.name)
            if value is None or not _can_be(value, tensor):
                continue
            try:
                nodes, names = _behind(value, base)
                if _is_same(tensor.array(), self._computed(value, nodes, names, base)):
                    return sorted(names)
            except _NotComputedError:
                continue
        return None

    def _computed(self, value: ir.Value, nodes: list[ir.Node], names: set[str], base: _Base) -> Array:
        import onnx_ir as ir

        arrays = {name: _array(base.constants[name]) for name in names}
        elements = 0
        for node in nodes:
            given = [arrays[str(one.name)] if one is not None else None for one in node.inputs]
            proto = ir.to_proto(node)
            elements += self._allow(proto, given, base)
            if elements > _MOST_ELEMENTS:
                raise _NotComputedError
            arrays.update(zip(proto.output, _run(proto, given, base), strict=True))
        return arrays[str(value.name)]

    def _allow(self, node: Any, given: Sequence[Array | None], base: _Base) -> int:
        """Number of elements of a node's results; its work is taken from what is left.

        Raises:
            _NotComputedError: the sizes are not known, or it is too much work.
        """
        shapes = _shapes(node, given, base)
        elements = sum(int(np.prod(shape, dtype=np.float64)) for shape in shapes)
        first = given[0] if given else None
        each = first.shape[-1] if node.op_type == "MatMul" and first is not None and first.ndim else _WORK_OF_ELEMENT
        read = sum(one.size for one in given if one is not None)
        self._work -= elements * each + read
        if self._work < 0:
            raise _NotComputedError
        return elements


def _load(file: Path, tensors: Sequence[FileTensor]) -> _Base:
    from onnxport.graph.quantization.weight_only import load_graph

    model = load_graph(file)
    values = {str(out.name): out for node in model.graph for out in node.outputs}
    order = {id(node): number for number, node in enumerate(model.graph)}
    return _Base(model, values, order, {tensor.name: tensor for tensor in tensors})


def _can_be(value: ir.Value, tensor: FileTensor) -> bool:
    """Whether the shape that the old graph declares, if it does, is that of the constant."""
    shape = value.shape
    return shape is None or (
        len(shape) == len(tensor.shape)
        and all(not isinstance(size, int) or size == own for size, own in zip(shape, tensor.shape, strict=True))
    )


def _behind(value: ir.Value, base: _Base) -> tuple[list[ir.Node], set[str]]:
    """The nodes that a value is computed by, in order, and the names of the constants.

    Raises:
        _NotComputedError: it depends on an input, or needs an operator that is not listed.
    """
    nodes: dict[int, ir.Node] = {}
    names: set[str] = set()
    pending = [value]
    while pending:
        one = pending.pop()
        node = one.producer()
        if one.is_initializer() or (node is not None and node.op_type == "Constant"):
            if str(one.name) not in base.constants:
                raise _NotComputedError
            names.add(str(one.name))
        elif node is None or node.domain != "" or node.op_type not in _OPERATORS or id(node) not in base.order:
            raise _NotComputedError
        elif id(node) not in nodes:
            nodes[id(node)] = node
            if len(nodes) > _MOST_NODES:
                raise _NotComputedError
            pending.extend(given for given in node.inputs if given is not None)
    return sorted(nodes.values(), key=lambda one: base.order[id(one)]), names


def _array(tensor: FileTensor) -> Array:
    array = tensor.array()
    if array.shape != tensor.shape or array.dtype.kind not in "fiub":  # numbers of fewer than 8 bits, texts
        raise _NotComputedError
    return array


def _shapes(node: Any, given: Sequence[Array | None], base: _Base) -> list[list[int]]:
    """The shapes of a node's results, from the shapes of its inputs and the values of small ones.

    Raises:
        _NotComputedError: they cannot be told beforehand.
    """
    import onnx

    arrays = {name: one for name, one in zip(node.input, given, strict=True) if one is not None}
    opsets = [onnx.helper.make_opsetid("", _opset(base))]
    kinds = {name: onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(one.dtype), one.shape)
             for name, one in arrays.items()}  # fmt: skip
    small = {name: onnx.numpy_helper.from_array(np.asarray(one), name) for name, one in arrays.items()
             if one.ndim < 2 and one.size <= _MOST_SIZES}  # fmt: skip
    try:
        schema = onnx.defs.get_schema(node.op_type, _opset(base), "")
        found = onnx.shape_inference.infer_node_outputs(schema, node, kinds, small, opset_imports=opsets)
    except Exception as error:  # a node that is not right
        raise _NotComputedError from error
    shapes = [found[name].tensor_type.shape if name in found else None for name in node.output if name]
    if any(shape is None or any(not size.HasField("dim_value") for size in shape.dim) for shape in shapes):
        raise _NotComputedError
    return [[size.dim_value for size in shape.dim] for shape in shapes if shape is not None]


def _run(node: Any, given: Sequence[Array | None], base: _Base) -> list[Array]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    arrays = {name: np.asarray(one) for name, one in zip(node.input, given, strict=True) if one is not None}
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(one.dtype), one.shape)
              for name, one in arrays.items()]  # fmt: skip
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _opset(base))])
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, arrays)
    except Exception as error:  # inputs that do not fit
        raise _NotComputedError from error
    return [np.asarray(one) for one in found]


def _opset(base: _Base) -> int:
    return base.model.opset_imports.get("") or 1


def _is_same(one: Array, other: Array) -> bool:
    """Whether two arrays are equal up to rounding; what is not finite must be equal."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    differ = np.not_equal(one, other)
    if one.dtype.kind != "f" or not differ.any():
        return not differ.any()
    ours, theirs = one[differ].astype(np.float64), other[differ].astype(np.float64)
    sizes = np.abs(theirs)
    if not (np.isfinite(ours).all() and np.isfinite(sizes).all()):
        return False
    usual = sizes < _MASKED
    scales = np.where(usual, sizes[usual].max(initial=0), sizes.max())
    return bool((np.abs(ours - theirs) <= _RELATIVE * scales).all())
