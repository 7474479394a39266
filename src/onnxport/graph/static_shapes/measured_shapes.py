"""Shapes that inference does not find, from running the graph; where they cannot depend on what is in the inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

# Operators that make sizes of numbers; others make them of sizes.
_ALWAYS = frozenset("Compress If Loop NonMaxSuppression NonZero Optional Scan StringSplit Unique".split())
# Of these it is the inputs after the first, which may be constants.
_SIZED = frozenset(
    "AffineGrid CenterCropPad Col2Im Expand MaxUnpool OneHot Pad Reshape Resize Slice Split SplitToSequence "
    "SequenceAt Squeeze Tile TopK Unsqueeze Upsample".split()
)
# And of these all.
_MADE = frozenset(("ConstantOfShape", "Range"))


def measure_shapes(model: ir.Model, source: Path) -> tuple[str, ...]:
    """Give values without a known shape the one that a run shows, in place.

    An operator that makes sizes of numbers (NonZero, Range) may give another size with other inputs, and so may what
    comes behind it: those stay as they are.

    Args:
        source: where the graph came from; weights are read from files in its folder.

    Returns:
        The values that stay without, with their operators.
    """
    import onnx_ir as ir

    unknown = {output: node for node in model.graph for output in node.outputs if output.name and not _is_known(output)}
    if not unknown:
        return ()
    if not any(map(_is_settled, unknown.values())):
        return tuple(f"{value.name} ({node.op_type})" for value, node in unknown.items())
    seen = _run(model, [str(value.name) for value in unknown], source)
    unsettled = []
    for value, node in unknown.items():
        if value.name in seen and _is_settled(node):
            value.shape = ir.Shape(seen[value.name])
        else:
            unsettled.append(f"{value.name} ({node.op_type})")
    return tuple(unsettled)


def _is_known(value: ir.Value) -> bool:
    return value.const_value is not None or (value.shape is not None and value.shape.is_static())


def _is_settled(node: ir.Node) -> bool:
    """Whether the sizes of what it makes follow from sizes that are known."""
    given = [value for value in node.inputs if value is not None]
    if node.op_type in _ALWAYS or not all(_is_known(value) for value in given):
        return False
    numbers = given if node.op_type in _MADE else given[1:] if node.op_type in _SIZED else []
    return all(value.const_value is not None for value in numbers)


def _run(model: ir.Model, names: list[str], source: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of values at ordinary inputs; none where the graph does not run."""
    import onnx
    import onnx_ir as ir
    import onnxruntime

    proto = ir.to_proto(model)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # no copies of weights
    folder = str(source.parent.resolve())
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None
        name = str(value.name)
        fill = np.ones if "mask" in name else np.zeros
        feed[name] = fill(value.shape.numpy(), value.dtype.numpy())
    values = session.run(names, feed)
    return {name: value.shape for name, value in zip(names, values, strict=True)}
