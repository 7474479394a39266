"""Weight-only quantization: weights of 4 or 8 bits in blocks, products as `com.microsoft::MatMulNBits`.

An embedding table is read by row (`table_rows`); one that is also the output layer stays one table. A weight that any
other operator reads (a convolution, for example) is not quantized.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from onnxport.graph.quantization.blocks import BLOCK

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.graph.quantization.block_tensors import BlockWeight
    from onnxport.graph.quantization.kept_blocks import KeptBlocks

# Small tables and classifiers with few columns save little and lose accuracy.
_LEAST_NUMBERS, _LEAST_INPUTS, _LEAST_OUTPUTS = 1024, BLOCK, 16
DOMAIN = "com.microsoft"
# `accuracy_level` of MatMulNBits: 1 computes in float32; with 8 bits, ONNX Runtime then unpacks the weight at every
# call, which is sixty times slower. 2 computes in float16, 4 quantizes activations to 8 bits in blocks.
FLOAT_ACTIVATIONS, HALF_ACTIVATIONS, INT8_ACTIVATIONS = 1, 2, 4
_RAISED = 8  # bits of a weight that 4 would harm


@dataclass(frozen=True)
class QuantizableWeight:
    """A weight that can be quantized.

    Attributes:
        value: the initializer.
        users: the nodes that read it, a Transpose between skipped.
        by_row: see `blocks.quantize_blocks`.
    """

    value: ir.Value
    users: tuple[ir.Node, ...]
    by_row: bool


def load_graph(file: Path) -> ir.Model:
    """Load a graph; large weights stay in their files.

    Args:
        file: a graph file.
    """
    import onnx
    import onnx_ir as ir

    from onnxport.runtime.mapped_weights import graph_without_weights

    small = graph_without_weights(file)
    if small is None:
        return ir.load(file)
    model = ir.from_proto(onnx.load_model_from_string(small))
    ir.external_data.set_base_dir(model.graph, file.parent)
    return model


def find_weights(model: ir.Model) -> list[QuantizableWeight]:
    """Return the weights that all of their users can read in blocks.

    Args:
        model: a float32 graph.
    """
    found = (_quantizable(value) for value in list(model.graph.initializers.values()))
    return [weight for weight in found if weight is not None]


def largest_weight(model: ir.Model) -> ir.Value | None:
    """The initializer with the most numbers that has two axes or more; None where there is none."""
    weights = [value for value in model.graph.initializers.values() if value.const_value is not None]
    matrices = [value for value in weights if len(value.const_value.shape) > 1]  # type: ignore[union-attr]
    return max(matrices, key=lambda value: value.const_value.size, default=None)  # type: ignore[union-attr]


def quantize_weights(
    model: ir.Model, bits: int, accuracy_level: int, raised: Collection[str] = (), *, half: bool = False
) -> int:
    """Replace weights by quantized blocks, in place; the values are computed when the graph is written.

    Args:
        model: a float32 graph.
        bits: 4 or 8.
        accuracy_level: `FLOAT_ACTIVATIONS`, `HALF_ACTIVATIONS` or `INT8_ACTIVATIONS`.
        raised: names of weights that get 8 bits; with `half`, that are not quantized.
        half: scales are numbers that float16 holds.

    Returns:
        The number of quantized weights.
    """
    from onnxport.graph.quantization.block_tensors import BlockWeight

    found = [weight for weight in find_weights(model) if not (half and weight.value.name in raised)]
    for weight in found:
        name = cast(str, weight.value.name)
        tensor = cast("ir.TensorProtocol", weight.value.const_value)
        own = _RAISED if name in raised else bits
        blocks = BlockWeight(tensor, name, own, by_row=weight.by_row, half=half)
        replace_weight(model, weight, blocks, accuracy_level)
    if found:
        model.opset_imports[DOMAIN] = 1
    return len(found)


def replace_weight(
    model: ir.Model, weight: QuantizableWeight, blocks: BlockWeight | KeptBlocks, accuracy_level: int
) -> None:
    """Let the users of a weight read its blocks, in place.

    Args:
        model: the graph.
        weight: one of `find_weights`.
        blocks: the blocks; those that a checkpoint has only for products.
        accuracy_level: `FLOAT_ACTIVATIONS` or `INT8_ACTIVATIONS`.
    """
    for user in weight.users:
        if user.op_type == "Gather":
            _use_gather(model, user, cast("BlockWeight", blocks))
        else:
            _use_matmul(model, user, blocks, accuracy_level)
    remove_weight(model, weight.value)


def use_dequantized_weights(
    model: ir.Model, bits: int, raised: Collection[str] = (), *, half: Collection[str] | None = None
) -> None:
    """Give weights the values that their quantized blocks represent, in place; operators do not change.

    Args:
        model: a float32 graph.
        bits: 4 or 8.
        raised: names of weights that have 8 bits.
        half: names of the weights that are quantized, with scales that float16 holds; None for all, with any scales.
    """
    from onnxport.graph.quantization.block_tensors import DequantizedTensor

    for weight in find_weights(model):
        tensor = cast("ir.TensorProtocol", weight.value.const_value)
        name = cast(str, weight.value.name)
        if half is not None and name not in half:
            continue
        own = _RAISED if name in raised else bits
        weight.value.const_value = DequantizedTensor(tensor, name, own, by_row=weight.by_row, half=half is not None)


def set_accuracy_level(model: ir.Model, level: int) -> None:
    """Set the accuracy level of every MatMulNBits, in place.

    Args:
        model: a quantized graph.
        level: `FLOAT_ACTIVATIONS` or `INT8_ACTIVATIONS`.
    """
    import onnx_ir as ir

    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)


def find_quantized(model: ir.Model, bits: int = _RAISED) -> frozenset[str]:
    """Names of the weights that have so many bits.

    Args:
        model: a quantized graph.
        bits: 4 or 8.
    """
    ending = f".q{bits}"
    return frozenset(name.removesuffix(ending) for name in model.graph.initializers if name.endswith(ending))


def _quantizable(value: ir.Value) -> QuantizableWeight | None:
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
    for node, index in value.uses():
        read = _users_of(node, index, value)
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
    return QuantizableWeight(value, tuple(users), by_row)


def _users_of(node: ir.Node, index: int, value: ir.Value) -> tuple[list[ir.Node], bool] | None:
    """Return the nodes that use the weight here, and whether a row computes one output; None for other uses."""
    if node.domain not in ("", "ai.onnx") or node.graph is not value.graph:
        return None
    whole = node.attributes
    match node.op_type:
        case "MatMul" if index == 1:
            return [node], False
        case "Gemm" if index == 1 and not whole.get_int("transA", 0) and _is_plain(node):
            return [node], bool(whole.get_int("transB", 0))
        case "Gather" if index == 0 and whole.get_int("axis", 0) == 0 and _has_rank(node.inputs[1]):
            return [node], True
        case "Transpose" if list(whole.get_ints("perm", [1, 0])) == [1, 0]:
            users = list(node.outputs[0].uses())
            fits = all(user.op_type == "MatMul" and user.domain == "" and at == 1 for user, at in users)
            # Nodes in subgraphs are not rewritten.
            alike = all(user.graph is value.graph for user, _ in users) and not node.outputs[0].is_graph_output()
            return ([user for user, _ in users], True) if users and fits and alike else None
    return None


def _has_rank(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None


def _is_plain(node: ir.Node) -> bool:
    """Return whether a Gemm has no factors: a product, and at most a bias."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return node.attributes.get_float("alpha", 1.0) == 1.0 and (
        bias is None or node.attributes.get_float("beta", 1.0) == 1.0
    )


def _use_matmul(model: ir.Model, node: ir.Node, weight: BlockWeight | KeptBlocks, accuracy_level: int) -> None:
    import onnx_ir as ir

    data, scales = add_initializer(model, weight.data), add_initializer(model, weight.scales)
    zeros = None if weight.zeros is None else add_initializer(model, weight.zeros)
    own, nodes = node.name or node.outputs[0].name, []
    source = node.inputs[0]
    if weight.columns is not None:
        order = add_initializer(model, weight.columns)
        nodes.append(ir.node("Gather", [source, order], {"axis": -1}, name=f"{own}.ordered"))
        source = nodes[0].outputs[0]
        source.name = f"{own}.ordered"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    fused_bias = bias is not None and bias.shape is not None and list(bias.shape) == [weight.outputs]
    quantized = ir.node(
        "MatMulNBits", [source, data, scales, *([zeros, None, bias] if fused_bias else [zeros] if zeros else [])],
        {"K": weight.inputs, "N": weight.outputs, "bits": weight.bits, "block_size": weight.block,
         "accuracy_level": accuracy_level},
        domain=DOMAIN, name=node.name,
    )  # fmt: skip
    nodes.append(quantized)
    if bias is not None and not fused_bias:
        nodes.append(ir.node("Add", [quantized.outputs[0], bias], name=f"{node.name or node.outputs[0].name}.bias"))
        quantized.outputs[0].name = f"{node.outputs[0].name}.product"
        quantized.outputs[0].shape, quantized.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    replace_node(model, node, nodes)


def _use_gather(model: ir.Model, node: ir.Node, weight: BlockWeight) -> None:
    """Read rows of the table from the blocks that the output layer reads too."""
    from onnxport.graph.quantization.table_rows import read_rows

    data, scales = add_initializer(model, weight.data), add_initializer(model, weight.scales)
    replace_node(model, node, read_rows(model, node, weight, data, scales))


def replace_node(model: ir.Model, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Replace a node by new nodes; the last one returns its output."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    model.graph.insert_before(node, nodes)
    name, old.name = old.name, None
    new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def remove_weight(model: ir.Model, value: ir.Value) -> None:
    """Remove a weight that is not read any more, and the Transpose that read it."""
    for node in list(value.consumers()):
        model.graph.remove(node, safe=True)
    model.graph.initializers.pop(cast(str, value.name))


def add_initializer(model: ir.Model, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer of the graph with this tensor; one that has its name already."""
    import onnx_ir as ir

    known = model.graph.initializers.get(cast(str, tensor.name))
    if known is not None:
        return known
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value
