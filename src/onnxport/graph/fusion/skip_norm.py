"""Fuse a residual addition with the norm after it.

A transformer adds the result of a layer to its input and normalizes the sum. ONNX Runtime has one operator for both:
SkipSimplifiedLayerNormalization for RMSNormalization, SkipLayerNormalization for LayerNormalization. The sum, which
the next layer reads, is a further output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_FUSED = {"RMSNormalization": "SkipSimplifiedLayerNormalization", "LayerNormalization": "SkipLayerNormalization"}
_FLOAT = 1


def fuse_skip_norms(model: ir.Model) -> int:
    """Fuse additions with norms, in place.

    Args:
        model: the graph.

    Returns:
        The number of fused norms.
    """
    return sum(_fuse(model, node) for node in list(model.graph) if node.op_type in _FUSED and node.domain == "")


def _fuse(model: ir.Model, norm: ir.Node) -> bool:
    import onnx_ir as ir

    data = norm.inputs[0]
    add = data.producer() if data is not None else None
    if data is None or add is None or not _is_plain_sum(add) or not _norms_last_axis(norm, data):
        return False
    kind = _FUSED[norm.op_type]
    sum_is_read = data.is_graph_output() or len(data.uses()) > 1
    fused = ir.node(
        kind,
        [*add.inputs, *norm.inputs[1:]],
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
    model.graph.remove([norm, add], safe=True)
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
        and all(size is not None for size in known)
        and all(shape == known for shape in shapes)
        and not any(value is not None and value.is_initializer() for value in node.inputs)
    )


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
