"""From a traced TensorFlow function to a graph without variables, in which large weights have no numbers.

What TensorFlow does itself (`convert_variables_to_constants_v2`) copies every weight into the graph, and
grappler and tf2onnx copy the graph several times: 30 times the weights were measured, and beyond 2 GB it fails.
Here a large weight is an input of the graph, and its numbers stay where they are, in the variable's own memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from onnxport.sources.tensorflow.source import tensorflow

# Elements; the same as `graph.simplify`: smaller ones are folded as numbers.
_LARGE = 8192
# Loops and branches: tf2onnx recognizes an LSTM by the numbers of its weights.
_CONTROL_FLOW = frozenset({"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"})
_XLA = ("_XlaMustCompile", "_noinline")
_PASS_ON = frozenset({"Identity", "ReadVariableOp", "Enter"})


@dataclass
class Frozen:
    """A graph without variables.

    Attributes:
        graph_def: of TensorFlow.
        inputs, outputs: names of tensors, in the function's order.
        weights: numbers of the inputs that are weights, by name of the tensor; views of the variables' memory.
    """

    graph_def: Any
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


def freeze(function: Any) -> Frozen:
    """Replace the variables of a ConcreteFunction.

    Raises:
        ValueError: TensorFlow cannot replace a variable.
    """
    from tensorflow.python.framework import convert_to_constants

    tf = tensorflow()
    held: dict[str, np.ndarray[Any, Any]] = {}

    class Data(convert_to_constants._FunctionConverterData):
        def _eval(self, value: Any) -> np.ndarray[Any, Any]:
            return _numbers(value)

    with _without_numbers(held), _without_xla(function.graph):
        data = Data(func=function, lower_control_flow=False, aggressive_inlining=True)
        for name, tensor in data.tensor_data.items():
            if _is_large(tensor.numpy):
                held[name] = tensor.numpy
        graph_def, _ = convert_to_constants._replace_variables_by_constants(data)
    from tf2onnx import tf_loader

    graph_def = tf_loader.fix_freezing_errors_part2(tf_loader.fix_freezing_errors(graph_def))
    inputs = [tensor.name for tensor in function.inputs if tensor.dtype != tf.resource]
    captured = {tensor.name for tensor in function.graph.internal_captures}
    frozen = Frozen(graph_def, [name for name in inputs if name not in captured], [t.name for t in function.outputs])
    _take_out(frozen, held)
    return frozen


def without_shapes(frozen: Frozen) -> Any:
    """The graph with weights of unknown shape: grappler makes a tensor for each input of a known one."""
    graph_def = type(frozen.graph_def)()
    graph_def.CopyFrom(frozen.graph_def)
    for node in graph_def.node:
        if f"{node.name}:0" in frozen.weights:
            node.attr["shape"].shape.Clear()
            node.attr["shape"].shape.unknown_rank = True
    return graph_def


def give_shapes(graph_def: Any, frozen: Frozen) -> None:
    """Undo `without_shapes`, in place."""
    tf = tensorflow()
    for node in graph_def.node:
        numbers = frozen.weights.get(f"{node.name}:0")
        if numbers is not None:
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(numbers.shape).as_proto())
        node.attr.pop("_output_shapes", None)  # inferred without them


# Numbers of variables that a graph holds, by the number of the variable's handle, which is never given twice.
_held: WeakValueDictionary[int, np.ndarray[Any, Any]] = WeakValueDictionary()


def _numbers(value: Any) -> np.ndarray[Any, Any]:
    """A variable's or a tensor's own memory; it is not written to while we hold it.

    A table that something was looked up in is copied by TensorFlow with every read. Two graphs that hold it get the
    same array, so that it is one weight for both (`graph.shared_weights`).
    """
    tensor = value.read_value() if hasattr(value, "read_value") else value
    try:
        numbers = np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):  # bfloat16 and its like are unknown to the buffer protocol
        numbers = np.asarray(tensor.numpy())
    handle = getattr(getattr(value, "handle", None), "_id", None)
    if handle is None or not _is_large(numbers):
        return numbers
    known = _held.get(handle)
    if known is not None and np.array_equal(known, numbers):
        return known
    _held[handle] = numbers
    return numbers


def _is_large(array: np.ndarray[Any, Any]) -> bool:
    return array.size > _LARGE and array.dtype.kind in "fiu"


@contextmanager
def _without_numbers(held: dict[str, np.ndarray[Any, Any]]) -> Iterator[None]:
    """Constants for large arrays get their shape and one number, which stands for all of them."""
    from tensorflow.python.framework import tensor_util

    original = tensor_util.make_tensor_proto
    known = held.values

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
    """Calls of functions that are compiled by XLA are inlined as others are.

    Keras computes grouped convolutions in one; grappler keeps such a call, and tf2onnx has no operator for it.
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


def _take_out(frozen: Frozen, held: dict[str, np.ndarray[Any, Any]]) -> None:
    """Turn large constants into inputs, in place; those that a loop reads get their numbers."""
    tf = tensorflow()
    inside = _read_by_control_flow(frozen.graph_def)
    for node in frozen.graph_def.node:
        if node.op != "Const":
            continue
        proto = node.attr["value"].tensor
        numbers = held.get(node.name)
        if numbers is None:
            if len(proto.tensor_content) <= _LARGE * 4 or node.name in inside:
                continue
            numbers = tf.make_ndarray(proto)
            if not _is_large(numbers):
                continue
        elif node.name in inside:
            proto.CopyFrom(tf.make_tensor_proto(numbers))
            continue
        dtype = node.attr["dtype"].type
        node.op = "Placeholder"
        node.attr.clear()
        node.attr["dtype"].type = dtype
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(numbers.shape).as_proto())
        frozen.weights[f"{node.name}:0"] = numbers


def _read_by_control_flow(graph_def: Any) -> set[str]:
    """Names of nodes whose result goes into a loop or a branch as it is."""
    nodes = {node.name: node for node in graph_def.node}
    found: set[str] = set()

    def mark(name: str) -> None:
        name = name.partition(":")[0].removeprefix("^")
        node = nodes.get(name)
        if node is None or name in found:
            return
        found.add(name)
        if node.op in _PASS_ON:
            mark(node.input[0])

    for node in graph_def.node:
        if node.op in _CONTROL_FLOW:
            for name in node.input:
                mark(name)
    return found
