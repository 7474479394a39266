"""Store weights in the layout that the operators compute with.

PyTorch keeps the weight of a linear layer as (out, in), so an exported graph has a Transpose before every MatMul.
Experts that are stored as one tensor are split and squeezed at every run. ONNX Runtime folds such nodes when it loads
a model. That costs time and a second copy of the weights in memory, and the weights cannot be memory-mapped. Here these
nodes are folded into the weights without reading them: the file holds what the node would have returned.

Some weights stay as they are: those that another node reads too (an embedding table that is also the output layer), and
those that are linked from the checkpoint. `Gemm(transB=1)` reads them untransposed, on inputs flattened to two axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from onnxport.graph.shared_weights import weight_key
from onnxport.graph.weight_history import Layout, WeightHistory

if TYPE_CHECKING:
    import onnx_ir as ir

# Elements. `simplify` has folded smaller ones.
_LARGE = 8192


class RearrangeableWeight(Protocol):
    """A weight that can be rearranged without reading its values."""

    def permuted(self, axes: list[int], name: str) -> ir.TensorProtocol:
        """Return the weight with its axes in another order."""

    def sliced(self, axis: int, start: int, length: int, name: str) -> ir.TensorProtocol:
        """Return indices `start` to `start + length` of an axis."""

    def reshaped(self, shape: list[int], name: str) -> ir.TensorProtocol:
        """Return the weight in another shape."""


def fold_weight_layout(
    model: ir.Model, *, keep_stored: bool = False, kept: frozenset[Any] = frozenset(),
    history: WeightHistory | None = None,
) -> int:  # fmt: skip
    """Fold operators that only rearrange a weight (Transpose, Squeeze, Reshape, Split) into the weight, in place.

    Args:
        model: a graph with weights attached.
        keep_stored: do not rearrange weights that are in a file; for files that are linked, not copied.
        kept: keys (`weight_key`) of weights that another graph of the folder reads as they are.
        history: receives the changes of layout.

    Returns:
        The number of removed nodes.
    """
    import onnx_ir as ir

    folded = 0
    for node in list(model.graph):  # in graph order: the result of one fold can be the weight of the next
        weight = node.inputs[0] if node.inputs and node.domain in ("", "ai.onnx") else None
        if weight is None or not _is_large_weight(weight) or any(value.is_graph_output() for value in node.outputs):
            continue
        exclusive = len(weight.uses()) == 1
        stays = (
            not exclusive
            or weight_key(weight.const_value) in kept
            or (keep_stored and isinstance(weight.const_value, ir.ExternalTensor))
        )
        if stays and _is_matrix_transpose(node):
            folded += _use_gemm(model, node, weight)
        elif exclusive and not stays:
            folded += _fold(model, node, weight, history)
    return folded


def _is_large_weight(value: ir.Value) -> bool:
    tensor = value.const_value
    return value.is_initializer() and tensor is not None and tensor.size > _LARGE and hasattr(tensor, "permuted")


def _is_matrix_transpose(node: ir.Node) -> bool:
    """Return whether this is the Transpose of a linear layer: only MatMul reads it, on the right."""
    users = node.outputs[0].consumers()
    weight = cast("ir.Value", node.inputs[0])
    return (
        node.op_type == "Transpose"
        and weight.shape is not None
        and len(weight.shape) == 2
        and _ints(node, "perm", [1, 0]) == [1, 0]
        and all(user.op_type == "MatMul" and user.inputs[0] is not node.outputs[0] for user in users)
    )


def _fold(model: ir.Model, node: ir.Node, weight: ir.Value, history: WeightHistory | None) -> int:
    """Replace the node's outputs by weights. Return 0 if the operator computes, or its effect is not constant."""
    import onnx_ir as ir

    tensors = _rearranged(node, weight)
    if tensors is None:
        return 0
    if history is not None:
        _note(history, node, weight, [cast(str, tensor.name) for tensor in tensors])
    model.graph.initializers.pop(cast(str, weight.name))
    for output, tensor in zip(node.outputs, tensors, strict=True):
        if not output.uses():
            continue
        value = ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype))
        value.const_value = tensor
        output.replace_all_uses_with(value)
        model.graph.register_initializer(value)
    model.graph.remove(node, safe=True)
    return 1


def _rearranged(node: ir.Node, weight: ir.Value) -> list[ir.TensorProtocol] | None:
    """Return the node's outputs as weights, or None for an operator that does more than rearrange."""
    tensor, name = cast("RearrangeableWeight", weight.const_value), cast(str, weight.name)
    shape = [int(size) for size in cast("ir.TensorProtocol", weight.const_value).shape]
    constant = _constant_of(node)
    match node.op_type:
        case "Transpose":
            return [tensor.permuted(_ints(node, "perm", list(range(len(shape)))[::-1]), name)]
        case "Squeeze" if constant is not None:
            dropped = {axis % len(shape) for axis in constant}
            return [tensor.reshaped([size for axis, size in enumerate(shape) if axis not in dropped], name)]
        case "Reshape" if constant is not None and min(constant) > 0:
            return [tensor.reshaped(constant, name)]
        case "Split" if constant is not None or len(node.inputs) == 1:
            axis = int(node.attributes.get_int("axis", 0)) % len(shape)
            sizes = constant or _equal_parts(shape[axis], len(node.outputs))
            starts = [sum(sizes[:index]) for index in range(len(sizes))]
            parts = enumerate(zip(starts, sizes, strict=True))
            return [tensor.sliced(axis, start, size, f"{name}.{index}") for index, (start, size) in parts]
    return None


def _note(history: WeightHistory, node: ir.Node, weight: ir.Value, names: list[str]) -> None:
    """Note what the node does to the weight, as its attributes and its declared shapes say."""
    shape, old = [int(size) for size in cast("ir.Shape", weight.shape)], cast(str, weight.name)
    if node.op_type == "Transpose":
        order = _ints(node, "perm", list(range(len(shape)))[::-1])
        history.rearrange(names[0], old, Layout("transposed", tuple(order)))
    elif node.op_type == "Split":
        axis, start = int(node.attributes.get_int("axis", 0)) % len(shape), 0
        sizes = _constant_of(node) or _equal_parts(shape[axis], len(node.outputs))
        for name, size in zip(names, sizes, strict=True):
            history.rearrange(name, old, Layout("sliced", (axis, start, size)))
            start += size
    else:
        numbers = _constant_of(node) or []
        if node.op_type == "Squeeze":
            dropped = {axis % len(shape) for axis in numbers}
            numbers = [size for axis, size in enumerate(shape) if axis not in dropped]
        history.rearrange(names[0], old, Layout("reshaped", tuple(numbers)))


def _equal_parts(length: int, parts: int) -> list[int]:
    """Return the sizes that Split uses: the last one is smaller if the length is not divisible."""
    size = -(-length // parts)
    return [*[size] * (parts - 1), length - size * (parts - 1)]


def _constant_of(node: ir.Node) -> list[int] | None:
    """Return the node's second input if it is a small constant."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = value.const_value if value is not None else None
    return None if tensor is None or tensor.size > _LARGE else [int(number) for number in tensor.numpy().reshape(-1)]


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return [int(number) for number in node.attributes.get_ints(name, default)]


def _use_gemm(model: ir.Model, node: ir.Node, weight: ir.Value) -> int:
    """Replace MatMul(x, Transpose(w)) by Reshape, Gemm(transB=1), Reshape, for every user of the Transpose."""
    for user in list(node.outputs[0].consumers()):
        _replace_matmul(model, user, weight)
    model.graph.remove(node, safe=True)
    return 1


def _replace_matmul(model: ir.Model, node: ir.Node, weight: ir.Value) -> None:
    import onnx_ir as ir

    data, result = cast("ir.Value", node.inputs[0]), node.outputs[0]
    rows, columns = (int(size) for size in cast("ir.TensorProtocol", weight.const_value).shape)
    name = node.name or cast(str, result.name)
    tape = ir.tape.Tape()
    if data.shape is not None and len(data.shape) == 2:
        output = tape.op("Gemm", [data, weight], {"transB": 1})
    else:
        flat = tape.op("Reshape", [data, _constant(model, f"{name}.rows", [-1, columns])])
        product = tape.op("Gemm", [flat, weight], {"transB": 1})
        leading = tape.op("Shape", [data], {"start": 0, "end": -1})
        shape = tape.op("Concat", [leading, _constant(model, f"{name}.columns", [rows])], {"axis": 0})
        output = tape.op("Reshape", [product, shape])
    for index, new in enumerate(tape.nodes):
        new.name = new.outputs[0].name = f"{name}.linear_{index}"
    output.shape, output.type = result.shape, result.type
    model.graph.insert_before(node, tape.nodes)
    output.name, result.name = result.name, f"{name}.replaced"
    result.replace_all_uses_with(output, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _constant(model: ir.Model, name: str, values: list[int]) -> ir.Value:
    import onnx_ir as ir

    tensor: Any = ir.tensor(np.array(values, np.int64), name=name)
    value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value
