"""Compute queries, keys and values in one matrix product, if they are three products of the same input."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.graph.fusion.attention_layers import are_same_sizes

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Projection:
    """Inputs of the attention operator.

    Attributes:
        values: query, key and value, (rows, tokens, heads * features). Key and value are None if the first holds all
            three.
    """

    values: tuple[ir.Value, ir.Value | None, ir.Value | None]


@dataclass(frozen=True)
class Linear:
    """A linear layer: data @ weight + bias.

    Attributes:
        data: (rows, tokens, features).
        weight: (features, outputs), an initializer.
        bias: (outputs,), an initializer, or None.
    """

    data: ir.Value
    weight: ir.Value
    bias: ir.Value | None


def project(model: ir.Model, before: ir.Node, query: ir.Value, key: ir.Value, value: ir.Value, name: str) -> Projection:
    """Return queries, keys and values in the layout of GroupQueryAttention.

    Args:
        model: the graph, in place.
        before: new nodes are inserted before this node.
        query: (rows, heads, tokens, features).
        key: (rows, key heads, tokens, features).
        value: (rows, key heads, tokens, features).
        name: prefix of the names of new nodes.
    """
    parts = [before_head_split(given) for given in (query, key, value)]
    flat = [part for part in parts if part is not None]
    if len(flat) == 3:
        whole = _sliced_source(flat) or _merge_products(model, before, flat, name)
        if whole is not None:
            return Projection((whole, None, None))
    found = [
        part if part is not None else _merge_heads(model, before, given, f"{name}.{kind}")
        for part, given, kind in zip(parts, (query, key, value), ("query", "key", "value"), strict=True)
    ]
    return Projection((found[0], found[1], found[2]))


def before_head_split(value: ir.Value) -> ir.Value | None:
    """Return the (rows, tokens, heads * features) tensor behind (rows, heads, tokens, features), or None."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or list(node.attributes.get_ints("perm", [])) != [0, 2, 1, 3]:
        return None
    reshape = node.inputs[0].producer() if node.inputs[0] is not None else None
    source = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
    if source is None or source.shape is None or len(source.shape) != 3 or value.shape is None:
        return None
    same = are_same_sizes(source.shape[:2], [value.shape[0], value.shape[2]])
    return source if same and source.shape[2] == _width(value) else None


def _merge_heads(model: ir.Model, before: ir.Node, value: ir.Value, name: str) -> ir.Value:
    """Insert nodes that merge the heads, for values that were changed head by head."""
    import onnx_ir as ir

    producer = value.producer()
    transposed = producer is not None and producer.op_type == "Transpose"
    tape = ir.tape.Tape()
    if producer is not None and transposed and list(producer.attributes.get_ints("perm", [])) == [0, 2, 1, 3]:
        source = producer.inputs[0]
    else:
        source = tape.op("Transpose", [value], {"perm": [0, 2, 1, 3]})
    shape = _weight(model, f"{name}.shape", np.array([0, 0, _width(value)], np.int64))
    flat = tape.op("Reshape", [source, shape])
    for index, node in enumerate(tape.nodes):
        node.name = node.outputs[0].name = f"{name}.flat_{index}"
    assert value.shape is not None
    flat.shape, flat.type = ir.Shape([value.shape[0], value.shape[2], _width(value)]), value.type
    model.graph.insert_before(before, tape.nodes)
    return flat


def _width(value: ir.Value) -> int:
    assert value.shape is not None
    return int(value.shape[1]) * int(value.shape[3])


def _sliced_source(parts: list[ir.Value]) -> ir.Value | None:
    """Return the tensor that the three parts are consecutive slices of, if they cover it completely."""
    import onnx_ir as ir

    sources, expected = set(), 0
    for number, part in enumerate(parts):
        node = part.producer()
        if node is None or part.shape is None or not isinstance(part.shape[2], int):
            return None
        if node.op_type == "Split" and node.attributes.get_int("axis", 0) in (2, -1):
            if list(node.outputs).index(part) != number or len(node.outputs) != 3:
                return None
        elif node.op_type == "Slice" and len(node.inputs) > 3:
            numbers = [_scalar_int(given) for given in node.inputs[1:]]
            if numbers[0] != expected or numbers[2] not in (2, -1) or (len(numbers) > 3 and numbers[3] != 1):
                return None
        else:
            return None
        expected += part.shape[2]
        sources.add(node.inputs[0])
    (source, *others) = sources
    fits = isinstance(source, ir.Value) and source.shape is not None and source.shape[2] == expected
    return source if fits and not others else None


def _merge_products(model: ir.Model, before: ir.Node, parts: list[ir.Value], name: str) -> ir.Value | None:
    """Replace three products by one with concatenated weights, if all three have the same input."""
    import onnx_ir as ir

    linears = [linear_of(part) for part in parts]
    known = [linear for linear in linears if linear is not None and len(linear.weight.uses()) == 1]
    if len(known) != 3 or any(linear.data is not known[0].data for linear in known):
        return None
    if len({linear.bias is None for linear in known}) != 1:
        return None
    weight = concatenate_weights(model, [linear.weight for linear in known], f"{name}.qkv.weight")
    tape = ir.tape.Tape()
    product = tape.op("MatMul", [known[0].data, weight])
    biases = [linear.bias for linear in known if linear.bias is not None]
    if biases:
        product = tape.op("Add", [product, concatenate_weights(model, biases, f"{name}.qkv.bias")])
    for index, node in enumerate(tape.nodes):
        node.name = node.outputs[0].name = f"{name}.qkv_{index}"
        first = parts[0].shape
        assert first is not None and weight.shape is not None
        node.outputs[0].shape, node.outputs[0].type = ir.Shape([*first[:2], weight.shape[1]]), parts[0].type
    model.graph.insert_before(before, tape.nodes)
    return product


def linear_of(value: ir.Value) -> Linear | None:
    """The linear layer that gives `value`; None for anything else."""
    node, bias = value.producer(), None
    if node is not None and node.op_type == "Add":
        constants = [given for given in node.inputs if given is not None and _is_weight(given, 1)]
        computed = [given for given in node.inputs if given is not None and not given.is_initializer()]
        if len(constants) != 1 or len(computed) != 1:
            return None
        bias, node = constants[0], computed[0].producer()
    if node is None or node.op_type != "MatMul" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    weight = node.inputs[1]
    return Linear(node.inputs[0], weight, bias) if _is_weight(weight, 2) else None


def _is_weight(value: ir.Value, rank: int) -> bool:
    return value.is_initializer() and value.const_value is not None and len(value.const_value.shape) == rank


def concatenate_weights(model: ir.Model, weights: list[ir.Value], name: str) -> ir.Value:
    """Return the weights concatenated on the last axis; they are read while the graph is written."""
    import onnx_ir as ir

    tensors: list[Any] = [weight.const_value for weight in weights]
    shape = [*tensors[0].shape[:-1], sum(int(tensor.shape[-1]) for tensor in tensors)]

    def read() -> ir.TensorProtocol:
        return ir.tensor(np.concatenate([tensor.numpy() for tensor in tensors], -1), name=name)

    lazy = ir.LazyTensor(read, tensors[0].dtype, shape=ir.Shape(shape), name=name)
    return register_weight(model, name, lazy)


class Constants:
    """Small constants that are added to a graph; equal ones are added once, under names that the graph does not have.

    Args:
        model: the graph, in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._known: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def of(self, array: np.ndarray | np.float32) -> ir.Value:
        """The initializer with these values."""
        import onnx_ir as ir

        whole = np.asarray(array)
        key = (str(whole.dtype), whole.shape, whole.tobytes())
        if key not in self._known:
            taken = self._model.graph.initializers
            number = next(n for n in itertools.count(len(self._known)) if f"fusion.constant_{n}" not in taken)
            name = f"fusion.constant_{number}"
            self._known[key] = register_weight(self._model, name, ir.tensor(whole, name=name))
        return self._known[key]


def _weight(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    import onnx_ir as ir

    return register_weight(model, name, ir.tensor(array, name=name))


def register_weight(model: ir.Model, name: str, tensor: Any) -> ir.Value:
    """Add an initializer to a graph."""
    import onnx_ir as ir

    value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _scalar_int(value: ir.Value | None) -> int | None:
    tensor = value.const_value if value is not None else None
    return int(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None
