"""Get shapes that shape inference does not find by running the graph, where they cannot depend on input values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

# Operators whose output size depends on input values.
_DATA_DEPENDENT = frozenset("Compress If Loop NonMaxSuppression NonZero Optional Scan StringSplit Unique".split())
# The output size depends on the values of the inputs after the first, which may be constants.
_SIZED_BY_LATER_INPUTS = frozenset(
    "AffineGrid CenterCropPad Col2Im Expand MaxUnpool OneHot Pad Reshape Resize Slice Split SplitToSequence "
    "SequenceAt Squeeze Tile TopK Unsqueeze Upsample".split()
)
# The output size depends on the values of all inputs.
_SIZED_BY_ALL_INPUTS = frozenset(("ConstantOfShape", "Range"))


def measure_shapes(model: ir.Model, source: Path) -> tuple[str, ...]:
    """Set unknown shapes to those of a run, in place.

    Operators that compute sizes from values (NonZero, Range) may have other sizes with other inputs, and so may the
    values that depend on them. Their shapes are not set.

    Args:
        model: a graph with static inputs.
        source: the file that the graph comes from; weights are read from its folder.

    Returns:
        The values without a known shape, with their operators.
    """
    import onnx_ir as ir

    unknown = {output: node for node in model.graph for output in node.outputs if output.name and not _is_known(output)}
    if not unknown:
        return ()
    if not any(map(_follows_from_shapes, unknown.values())):
        return tuple(f"{value.name} ({node.op_type})" for value, node in unknown.items())
    measured = _run(model, [str(value.name) for value in unknown], source)
    data_dependent = []
    for value, node in unknown.items():
        if value.name in measured and _follows_from_shapes(node):
            value.shape = ir.Shape(measured[value.name])
        else:
            data_dependent.append(f"{value.name} ({node.op_type})")
    return tuple(data_dependent)


def _is_known(value: ir.Value) -> bool:
    return value.const_value is not None or (value.shape is not None and value.shape.is_static())


def _follows_from_shapes(node: ir.Node) -> bool:
    """Return whether the output shapes depend on known shapes and constants only."""
    given = [value for value in node.inputs if value is not None]
    if node.op_type in _DATA_DEPENDENT or not all(_is_known(value) for value in given):
        return False
    sizing_inputs = (
        given if node.op_type in _SIZED_BY_ALL_INPUTS else given[1:] if node.op_type in _SIZED_BY_LATER_INPUTS else []
    )
    return all(value.const_value is not None for value in sizing_inputs)


def _run(model: ir.Model, names: list[str], source: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of values in a run with plain inputs: masks of ones, otherwise zeros."""
    import onnx
    import onnx_ir as ir
    import onnxruntime

    proto = ir.to_proto(model)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # avoids copies of the weights
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
