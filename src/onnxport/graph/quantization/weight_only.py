"""Weights of 4 or 8 bits, activations in float32: products become `com.microsoft::MatMulNBits`.

An embedding table becomes `GatherBlockQuantized`; one that is the output layer too stays one table. What
else reads a weight (a convolution, a product of two activations) keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from onnxport.graph.quantization.blocks import BLOCK

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.graph.quantization.block_tensors import RoundedWeight

# A small table or the few columns of a classifier are not worth the loss.
_LEAST_NUMBERS, _LEAST_INPUTS, _LEAST_OUTPUTS = 1024, BLOCK, 16
DOMAIN = "com.microsoft"
# What the products of 4 and 8 bits do with activations. ONNX Runtime's 1 is float32: with 8 bits it unpacks
# the weight at every call, sixty times slower. 4 rounds activations to 8 bits in blocks of their own.
FLOAT_ACTIVATIONS, ROUNDED_ACTIVATIONS = 1, 4


@dataclass(frozen=True)
class Found:
    """A weight that can be rounded.

    Attributes:
        value: the initializer.
        users: the nodes that read it, without the Transpose between.
        by_row: as for `blocks.quantize`.
    """

    value: ir.Value
    users: tuple[ir.Node, ...]
    by_row: bool


def load_graph(file: Path) -> ir.Model:
    """A graph file whose large weights stay in their files."""
    import onnx
    import onnx_ir as ir

    from onnxport.runtime.mapped_weights import graph_without_weights

    small = graph_without_weights(file)
    if small is None:
        return ir.load(file)
    model = ir.from_proto(onnx.load_model_from_string(small))
    ir.external_data.set_base_dir(model.graph, file.parent)
    return model


def find_weights(model: ir.Model) -> list[Found]:
    """The weights whose users all can read them in blocks."""
    found = (_found(value) for value in list(model.graph.initializers.values()))
    return [weight for weight in found if weight is not None]


def round_weights(model: ir.Model, bits: int, accuracy_level: int) -> int:
    """Put the weights in blocks, in place; they are computed when the graph is written.

    Args:
        bits: 4 or 8.
        accuracy_level: `FLOAT_ACTIVATIONS` or `ROUNDED_ACTIVATIONS`.

    Returns:
        How many weights were found.
    """
    from onnxport.graph.quantization.block_tensors import RoundedWeight

    found = find_weights(model)
    for weight in found:
        name = cast(str, weight.value.name)
        tensor = cast("ir.TensorProtocol", weight.value.const_value)
        made = RoundedWeight(tensor, name, bits, by_row=weight.by_row)
        data, scales = _initializer(model, made.data), _initializer(model, made.scales)
        for user in weight.users:
            replace = _gather if user.op_type == "Gather" else _product
            replace(model, user, made, data, scales, accuracy_level)
        _drop(model, weight.value)
    if found:
        model.opset_imports[DOMAIN] = 1
    return len(found)


def use_rounded_numbers(model: ir.Model, bits: int) -> None:
    """Give the weights the numbers that their blocks stand for, in place; the graph stays as it is."""
    from onnxport.graph.quantization.block_tensors import RoundedTensor

    for weight in find_weights(model):
        tensor = cast("ir.TensorProtocol", weight.value.const_value)
        weight.value.const_value = RoundedTensor(tensor, cast(str, weight.value.name), bits, by_row=weight.by_row)


def set_accuracy_level(model: ir.Model, level: int) -> None:
    """Of every product in blocks, in place."""
    import onnx_ir as ir

    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)


def _found(value: ir.Value) -> Found | None:
    import onnx_ir as ir

    tensor = value.const_value
    right = (
        tensor is not None
        and not value.is_graph_input()
        and not value.is_graph_output()
        and tensor.dtype == ir.DataType.FLOAT
        and len(tensor.shape) == 2
        and tensor.size >= _LEAST_NUMBERS
    )
    if tensor is None or not right:
        return None
    users: list[ir.Node] = []
    layouts = set()
    for node, place in value.uses():
        read = _read(node, place, value)
        if read is None:
            return None
        users += read[0]
        layouts.add(read[1])
    if len(layouts) != 1:
        return None
    (by_row,) = layouts
    outputs, inputs = (int(size) for size in (tensor.shape if by_row else tensor.shape[::-1]))
    gathered = any(user.op_type == "Gather" for user in users)
    if inputs < _LEAST_INPUTS or outputs < _LEAST_OUTPUTS or (gathered and inputs % BLOCK):
        return None
    return Found(value, tuple(users), by_row)


def _read(node: ir.Node, place: int, value: ir.Value) -> tuple[list[ir.Node], bool] | None:
    """The nodes that use the weight here, and whether a row makes one output; None for any other use."""
    if node.domain not in ("", "ai.onnx") or node.graph is not value.graph:
        return None
    whole = node.attributes
    match node.op_type:
        case "MatMul" if place == 1:
            return [node], False
        case "Gemm" if place == 1 and not whole.get_int("transA", 0) and _is_plain(node):
            return [node], bool(whole.get_int("transB", 0))
        case "Gather" if place == 0 and whole.get_int("axis", 0) == 0:
            return [node], True
        case "Transpose" if list(whole.get_ints("perm", [1, 0])) == [1, 0]:
            users = list(node.outputs[0].uses())
            fits = all(user.op_type == "MatMul" and user.domain == "" and at == 1 for user, at in users)
            # What is inside of a branch is not rewritten.
            alike = all(user.graph is value.graph for user, _ in users) and not node.outputs[0].is_graph_output()
            return ([user for user, _ in users], True) if users and fits and alike else None
    return None


def _is_plain(node: ir.Node) -> bool:
    """Whether a Gemm is a product and at most a bias: no factors."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return node.attributes.get_float("alpha", 1.0) == 1.0 and (
        bias is None or node.attributes.get_float("beta", 1.0) == 1.0
    )


def _product(
    model: ir.Model, node: ir.Node, weight: RoundedWeight, data: ir.Value, scales: ir.Value, accuracy_level: int
) -> None:
    import onnx_ir as ir

    bias = node.inputs[2] if len(node.inputs) > 2 else None
    inside = bias is not None and bias.shape is not None and list(bias.shape) == [weight.outputs]
    made = ir.node(
        "MatMulNBits", [node.inputs[0], data, scales, *([None, None, bias] if inside else [])],
        {"K": weight.inputs, "N": weight.outputs, "bits": weight.bits, "block_size": BLOCK,
         "accuracy_level": accuracy_level},
        domain=DOMAIN, name=node.name,
    )  # fmt: skip
    nodes = [made]
    if bias is not None and not inside:
        nodes.append(ir.node("Add", [made.outputs[0], bias], name=f"{node.name or node.outputs[0].name}.bias"))
        made.outputs[0].name = f"{node.outputs[0].name}.product"
        made.outputs[0].shape, made.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    _put(model, node, nodes)


def _gather(
    model: ir.Model, node: ir.Node, weight: RoundedWeight, data: ir.Value, scales: ir.Value, accuracy_level: int
) -> None:
    """A row of the table, from the blocks that the output layer reads too: their last two axes as one."""
    import onnx_ir as ir

    packed = weight.inputs * weight.bits // 8
    shape = ir.tensor(np.array([weight.outputs, packed], np.int64), name=f"{data.name}.rows")
    rows = ir.node("Reshape", [data, _initializer(model, shape)], name=f"{node.name or node.outputs[0].name}.rows")
    rows.outputs[0].name = f"{data.name}.as_rows"
    rows.outputs[0].shape, rows.outputs[0].type = ir.Shape([weight.outputs, packed]), data.type
    made = ir.node(
        "GatherBlockQuantized", [rows.outputs[0], node.inputs[1], scales],
        {"bits": weight.bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1},
        domain=DOMAIN, name=node.name,
    )  # fmt: skip
    _put(model, node, [rows, made])


def _put(model: ir.Model, node: ir.Node, nodes: list[ir.Node]) -> None:
    """New nodes in the place of one; the last gives what it gave."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    model.graph.insert_before(node, nodes)
    name, old.name = old.name, None
    new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _drop(model: ir.Model, value: ir.Value) -> None:
    """A weight that nothing reads any more, and the Transpose that did."""
    for node in list(value.consumers()):
        model.graph.remove(node, safe=True)
    model.graph.initializers.pop(cast(str, value.name))


def _initializer(model: ir.Model, tensor: ir.TensorProtocol) -> ir.Value:
    import onnx_ir as ir

    known = model.graph.initializers.get(cast(str, tensor.name))
    if known is not None:
        return known
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value
