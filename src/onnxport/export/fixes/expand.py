"""Repeat a value along one axis to the size of another value's axis, inside the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def expand_before(
    model: ir.Model, node: ir.Node, value: ir.Value, like: ir.Value, axis: int, before: list[int], after: list[int]
) -> ir.Value:
    """Insert `Expand(value, [*before, like.shape[axis], *after])` before `node`.

    Expand broadcasts in both directions, so ones in the target shape keep the value's own axes.

    Args:
        model: the graph, in place.
        node: new nodes are inserted before it.
        value: the value to repeat.
        like: the value with the axis to match.
        axis: index of that axis.
        before: sizes before the axis in the target shape.
        after: sizes after the axis in the target shape.

    Returns:
        The repeated value.
    """
    import numpy as np
    import onnx_ir as ir

    stem = f"{value.name}_expanded_{node.name}"
    length = ir.node("Shape", [like], attributes={"start": axis, "end": axis + 1}, name=f"{stem}_length")
    parts: list[ir.Value] = [length.outputs[0]]
    new = [length]
    for place, sizes in ((0, before), (len(parts), after)):
        if sizes:
            tensor = ir.tensor(np.asarray(sizes, np.int64), name=f"{stem}_ones_{place}")
            constant = ir.node("Constant", [], attributes={"value": tensor}, name=f"{stem}_ones_{place}")
            new.append(constant)
            parts.insert(0 if place == 0 else len(parts), constant.outputs[0])
    target = ir.node("Concat", parts, attributes={"axis": 0}, name=f"{stem}_shape")
    expand = ir.node("Expand", [value, target.outputs[0]], name=stem)
    expand.outputs[0].type = value.type
    for made in (*new, target, expand):
        for output in made.outputs:
            output.name = f"{made.name}_output"
    model.graph.insert_before(node, [*new, target, expand])
    return expand.outputs[0]
