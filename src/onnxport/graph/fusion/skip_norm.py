"""Fuse a residual addition with the norm after it.

A transformer adds the result of a layer to its input and normalizes the sum. ONNX Runtime has one operator for both:
SkipSimplifiedLayerNormalization for RMSNormalization, SkipLayerNormalization for LayerNormalization. The sum, which
the next layer reads, is a further output. The bias of the layer before is added by the same operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.graph.fusion.attention_layers import are_same_sizes

if TYPE_CHECKING:
    import onnx_ir as ir

_FUSED = {"RMSNormalization": "SkipSimplifiedLayerNormalization", "LayerNormalization": "SkipLayerNormalization"}
_WEIGHTS = {"SkipSimplifiedLayerNormalization": 1, "SkipLayerNormalization": 2}  # of the norm, before the bias
_FLOAT = 1


def fuse_skip_norms(model: ir.Model, *, biases: bool = False) -> int:
    """Fuse additions with norms, in place.

    Args:
        model: the graph.
        biases: also fuse the bias that one side of a sum ends with.

    Returns:
        The number of fused norms.
    """
    norms = [node for node in model.graph if node.op_type in _FUSED and node.domain == ""]
    return sum(_fuse(model, node, biases) for node in norms)


def _fuse(model: ir.Model, norm: ir.Node, biases: bool) -> bool:
    import onnx_ir as ir

    data = norm.inputs[0]
    add = data.producer() if data is not None else None
    if data is None or add is None or not _is_plain_sum(add) or not _norms_last_axis(norm, data):
        return False
    kind = _FUSED[norm.op_type]
    sum_is_read = data.is_graph_output() or len(data.uses()) > 1
    sides, bias, unused = _without_bias(add) if biases else (list(add.inputs), None, [])
    weights = list(norm.inputs[1:])
    if bias is not None:
        weights += [*[None] * (_WEIGHTS[kind] - len(weights)), bias]
    fused = ir.node(
        kind,
        [*sides, *weights],
        {"epsilon": norm.attributes.get_float("epsilon", 1e-5)},
        domain="com.microsoft",
        num_outputs=4 if sum_is_read else 1,
        name=norm.name,
    )
    model.graph.insert_before(add, fused)
    pairs = [(norm.outputs[0], fused.outputs[0])]
    if sum_is_read:
        fused.outputs[1].name = fused.outputs[2].name = ""
        pairs.append((data, fused.outputs[3]))
    for old, new in pairs:
        new.shape, new.type = old.shape, old.type
        name, old.name = old.name, None
        new.name = name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.remove([norm, add, *unused], safe=True)
    model.opset_imports["com.microsoft"] = 1
    return True


def _is_plain_sum(node: ir.Node) -> bool:
    """Return whether the node adds two tensors of one known shape (rows, tokens, features), without broadcasting."""
    if node.op_type != "Add" or node.domain != "":
        return False
    shapes = [value.shape for value in (*node.inputs, *node.outputs) if value is not None]
    known = shapes[0]
    return (
        known is not None
        and len(known) == 3
        and all(shape is not None and len(shape) == 3 and are_same_sizes(shape, known) for shape in shapes)
        and not any(value is not None and value.is_initializer() for value in node.inputs)
    )


def _without_bias(add: ir.Node) -> tuple[list[ir.Value | None], ir.Value | None, list[ir.Node]]:
    """The sides of a sum, a bias that one of them ends with, and the node that adds it, which nothing else reads."""
    sides = list(add.inputs)
    features = add.outputs[0].shape[2:] if add.outputs[0].shape is not None else ()
    for number, side in enumerate(sides):
        node = side.producer() if side is not None else None
        if side is None or node is None or node.op_type != "Add" or len(side.uses()) > 1 or side.is_graph_output():
            continue
        biases = [given for given in node.inputs if given is not None and given.is_initializer()
                  and given.shape is not None and list(given.shape) == list(features)]  # fmt: skip
        others = [given for given in node.inputs if given is not None and not given.is_initializer()]
        if len(biases) == 1 and len(others) == 1 and _has_shape_of(others[0], side):
            return [*sides[:number], others[0], *sides[number + 1 :]], biases[0], [node]
    return sides, None, []


def _has_shape_of(one: ir.Value, other: ir.Value) -> bool:
    first, second = one.shape, other.shape
    if first is None or second is None or len(first) != len(second):
        return False
    return are_same_sizes(first, second)


def _norms_last_axis(norm: ir.Node, data: ir.Value) -> bool:
    import onnx_ir as ir

    weights = norm.inputs[1:]
    return (
        len(norm.outputs) == 1
        and norm.attributes.get_int("axis", -1) in (-1, 2)
        and norm.attributes.get_int("stash_type", 1) == _FLOAT
        and data.dtype == ir.DataType.FLOAT
        and all(
            weight is not None and weight.is_initializer() and weight.shape is not None and len(weight.shape) == 1
            and weight.dtype == ir.DataType.FLOAT and data.shape is not None and weight.shape[0] == data.shape[2]
            for weight in weights
        )
    )  # fmt: skip
