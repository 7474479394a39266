"""Turn a traced TensorFlow function into a graph without variables and without the values of large weights.

TensorFlow's own `convert_variables_to_constants_v2` copies every weight into the graph, and grappler and tf2onnx copy
the graph several times: 30 times the size of the weights was measured, and above 2 GB it fails. Here a large weight is
an input of the graph, and its values stay in the variable's own memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from onnxport.sources.tensorflow.source import tensorflow

# Elements; as in `graph.simplify`, which folds smaller constants.
_LARGE = 8192
# Loops and branches: tf2onnx recognizes an LSTM by the values of its weights.
_CONTROL_FLOW = frozenset({"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"})
_XLA = ("_XlaMustCompile", "_noinline")
_FORWARDING = frozenset({"Identity", "ReadVariableOp", "Enter"})


@dataclass
class FrozenGraph:
    """A graph without variables.

    Attributes:
        graph_def: the TensorFlow GraphDef.
        inputs: names of input tensors, in the order of the function.
        outputs: names of output tensors, in the order of the function.
        weights: tensor name -> values, for inputs that are weights; views of the variables' memory.
        variables: tensor name -> id of the handle of the variable that it stands for, as TensorFlow's trace says.
    """

    graph_def: Any
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    variables: dict[str, int] = field(default_factory=dict)


def freeze(function: Any) -> FrozenGraph:
    """Replace the variables of a traced function.

    Args:
        function: a ConcreteFunction.

    Raises:
        ValueError: TensorFlow cannot replace a variable.
    """
    from tensorflow.python.framework import convert_to_constants

    tf = tensorflow()
    large_constants: dict[str, np.ndarray[Any, Any]] = {}

    class ConverterData(convert_to_constants._FunctionConverterData):  # type: ignore[misc]
        def _eval(self, value: Any) -> np.ndarray[Any, Any]:
            return _array_of(value)

    with _placeholder_constants(large_constants), _without_xla(function.graph):
        converter_data = ConverterData(func=function, lower_control_flow=False, aggressive_inlining=True)
        for name, tensor in converter_data.tensor_data.items():
            if _is_large(tensor.numpy):
                large_constants[name] = tensor.numpy
        graph_def, _ = convert_to_constants._replace_variables_by_constants(converter_data)
    from tf2onnx import tf_loader

    graph_def = tf_loader.fix_freezing_errors_part2(tf_loader.fix_freezing_errors(graph_def))
    inputs = [tensor.name for tensor in function.inputs if tensor.dtype != tf.resource]
    captured = {tensor.name for tensor in function.graph.internal_captures}
    frozen = FrozenGraph(
        graph_def, [name for name in inputs if name not in captured], [t.name for t in function.outputs]
    )
    _constants_to_inputs(frozen, large_constants)
    for external, internal in function.graph.captures:
        handle = getattr(external, "_id", None)
        if handle is not None and external.dtype == tf.resource:
            frozen.variables[internal.name] = handle
    return frozen


def without_shapes(frozen: FrozenGraph) -> Any:
    """Return the GraphDef with weights of unknown shape: grappler allocates a tensor for inputs of a known shape.

    Args:
        frozen: the frozen graph.
    """
    graph_def = type(frozen.graph_def)()
    graph_def.CopyFrom(frozen.graph_def)
    for node in graph_def.node:
        if f"{node.name}:0" in frozen.weights:
            node.attr["shape"].shape.Clear()
            node.attr["shape"].shape.unknown_rank = True
    return graph_def


def restore_shapes(graph_def: Any, frozen: FrozenGraph) -> None:
    """Undo `without_shapes`, in place.

    Args:
        graph_def: the GraphDef after grappler.
        frozen: the frozen graph.
    """
    tf = tensorflow()
    for node in graph_def.node:
        array = frozen.weights.get(f"{node.name}:0")
        if array is not None:
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
        node.attr.pop("_output_shapes", None)  # inferred from the unknown shapes


# Arrays of variables that a graph uses, by the id of the variable's handle; ids are never reused.
_shared_arrays: WeakValueDictionary[int, np.ndarray[Any, Any]] = WeakValueDictionary()


def _array_of(value: Any) -> np.ndarray[Any, Any]:
    """Return the memory of a variable or tensor as an array; nothing writes to it while onnxport uses it.

    TensorFlow copies an embedding table at every read. Two graphs that use it get the same array, so that it is one
    weight for both (`graph.shared_weights`).
    """
    tensor = value.read_value() if hasattr(value, "read_value") else value
    try:
        array = np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):  # the buffer protocol has no bfloat16
        array = np.asarray(tensor.numpy())
    handle = getattr(getattr(value, "handle", None), "_id", None)
    if handle is None or not _is_large(array):
        return array
    known = _shared_arrays.get(handle)
    if known is not None and np.array_equal(known, array):
        return known
    _shared_arrays[handle] = array
    return array


def _is_large(array: np.ndarray[Any, Any]) -> bool:
    return array.size > _LARGE and array.dtype.kind in "fiu"


@contextmanager
def _placeholder_constants(large_constants: dict[str, np.ndarray[Any, Any]]) -> Iterator[None]:
    """Store only shape and one value for large constants."""
    from tensorflow.python.framework import tensor_util

    original = tensor_util.make_tensor_proto
    known = large_constants.values

    def make(values: Any, dtype: Any = None, shape: Any = None, **settings: Any) -> Any:
        if any(values is array for array in known()):
            values = values.dtype.type(0)
        return original(values, dtype, shape, **settings)

    tensor_util.make_tensor_proto = make
    try:
        yield
    finally:
        tensor_util.make_tensor_proto = original


@contextmanager
def _without_xla(graph: Any) -> Iterator[None]:
    """Inline calls of functions that are marked for XLA, as other calls.

    Keras computes grouped convolutions in such a function. grappler keeps the call, and tf2onnx has no operator for it.
    """
    original = graph.as_graph_def

    def as_graph_def(*arguments: Any, **settings: Any) -> Any:
        graph_def = original(*arguments, **settings)
        bodies = graph_def.library.function
        for holder in (*graph_def.node, *bodies, *(node for body in bodies for node in body.node_def)):
            for name in _XLA:
                holder.attr.pop(name, None)
        return graph_def

    graph.as_graph_def = as_graph_def
    try:
        yield
    finally:
        del graph.as_graph_def


def _constants_to_inputs(frozen: FrozenGraph, large_constants: dict[str, np.ndarray[Any, Any]]) -> None:
    """Turn large constants into inputs, in place; constants that a loop reads get their values back."""
    tf = tensorflow()
    inside = _read_by_control_flow(frozen.graph_def)
    for node in frozen.graph_def.node:
        if node.op != "Const":
            continue
        proto = node.attr["value"].tensor
        array = large_constants.get(node.name)
        if array is None:
            if len(proto.tensor_content) <= _LARGE * 4 or node.name in inside:
                continue
            array = tf.make_ndarray(proto)
            if not _is_large(array):
                continue
        elif node.name in inside:
            proto.CopyFrom(tf.make_tensor_proto(array))
            continue
        dtype = node.attr["dtype"].type
        node.op = "Placeholder"
        node.attr.clear()
        node.attr["dtype"].type = dtype
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
        frozen.weights[f"{node.name}:0"] = array


def _read_by_control_flow(graph_def: Any) -> set[str]:
    """Return names of nodes that a loop or branch reads directly."""
    nodes = {node.name: node for node in graph_def.node}
    found: set[str] = set()

    def mark(name: str) -> None:
        name = name.partition(":")[0].removeprefix("^")
        node = nodes.get(name)
        if node is None or name in found:
            return
        found.add(name)
        if node.op in _FORWARDING:
            mark(node.input[0])

    for node in graph_def.node:
        if node.op in _CONTROL_FLOW:
            for name in node.input:
                mark(name)
    return found
