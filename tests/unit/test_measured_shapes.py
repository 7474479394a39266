"""Shapes from a run: only where they cannot depend on what is in the inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxport.graph.static_shapes.measured_shapes import measure_shapes


def value(name, shape, kind=ir.DataType.FLOAT):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))


def constant(name, array):
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype))


def test_sizes_that_follow_from_sizes_and_those_that_do_not():
    x, shape = value("x", [2, 6]), value("wanted", [2], ir.DataType.INT64)
    two = constant("two", np.array([3, 4], np.int64))
    nodes = {
        "relu": ir.node("Relu", [x]),
        "by_constant": ir.node("Reshape", [x, two]),
        "by_input": ir.node("Reshape", [x, shape]),
        "places": ir.node("NonZero", [x]),
    }
    nodes["behind"] = ir.node("Neg", [nodes["places"].outputs[0]])
    nodes["after_relu"] = ir.node("Neg", [nodes["relu"].outputs[0]])
    for name, node in nodes.items():
        node.outputs[0].name = name
    graph = ir.Graph(
        [x, shape], [node.outputs[0] for node in nodes.values()], nodes=list(nodes.values()), initializers=[two],
        opset_imports={"": 21}, name="g",
    )  # fmt: skip
    for node in nodes.values():
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64 if node.op_type == "NonZero" else ir.DataType.FLOAT)
    nodes["behind"].outputs[0].type = ir.TensorType(ir.DataType.INT64)
    model = ir.Model(graph, ir_version=10)
    # The input of sizes is zeros in the run: take sizes that zeros allow.
    nodes["by_input"].attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
    left = measure_shapes(model, Path("model.onnx"))
    assert left == ("by_input (Reshape)", "places (NonZero)", "behind (Neg)")
    assert nodes["by_constant"].outputs[0].shape == ir.Shape([3, 4])
    assert nodes["after_relu"].outputs[0].shape == ir.Shape([2, 6])
    assert nodes["behind"].outputs[0].shape is None
