"""Sums and norms in one operator, against the graph as it was."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from onnxport.graph.fusion.skip_norm import fuse_skip_norms

FEATURES = 6


def value(name, *shape):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def model(norm="RMSNormalization", *, keeps_sum=True, other=("rows", "tokens", FEATURES), axis=-1):
    """norm(x + y) and, with `keeps_sum`, the sum twice as large."""
    x, y = value("x", "rows", "tokens", FEATURES), value("y", *other)
    rng = np.random.default_rng(0)
    names = ("scale",) if norm == "RMSNormalization" else ("scale", "bias")
    size = FEATURES if axis == -1 else 0
    weights = []
    for name in names:
        tensor = ir.tensor(rng.standard_normal(size or (5, FEATURES)).astype(np.float32), name=name)
        weights.append(
            ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    tape = ir.tape.Tape()
    total = tape.op("Add", [x, y])
    normed = tape.op(norm, [total, *weights], {"epsilon": 0.01, "axis": axis, "stash_type": 1})
    outputs = [normed, *([tape.op("Add", [total, total])] if keeps_sum else [])]
    for number, made in enumerate(tape.nodes):
        made.outputs[0].name = f"v{number}"
        made.outputs[0].shape, made.outputs[0].type = ir.Shape(("rows", "tokens", FEATURES)), x.type
    graph = ir.Graph([x, y], outputs, nodes=tape.nodes, initializers=weights, opset_imports={"": 23}, name="g")
    return ir.Model(graph, ir_version=10)


def run(made, x, y):
    content = ir.to_proto(made).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "y": y})


def arrays(rows, tokens):
    rng = np.random.default_rng(rows)
    return [rng.standard_normal((rows, tokens, FEATURES)).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize(
    ("norm", "fused"),
    [("RMSNormalization", "SkipSimplifiedLayerNormalization"), ("LayerNormalization", "SkipLayerNormalization")],
)
@pytest.mark.parametrize("keeps_sum", [True, False])
def test_same_numbers(norm, fused, keeps_sum):
    made = model(norm, keeps_sum=keeps_sum)
    wanted = [run(made, *arrays(*sizes)) for sizes in ((1, 1), (3, 7))]
    assert fuse_skip_norms(made) == 1
    assert [node.op_type for node in made.graph] == [fused, *["Add"] * keeps_sum]
    for sizes, numbers in zip(((1, 1), (3, 7)), wanted, strict=True):
        for ours, theirs in zip(run(made, *arrays(*sizes)), numbers, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_sum_that_repeats_numbers_stays():
    assert fuse_skip_norms(model(other=(1, 1, FEATURES))) == 0
    assert fuse_skip_norms(model(other=("rows", "others", FEATURES))) == 0


def test_a_norm_over_two_axes_stays():
    assert fuse_skip_norms(model(axis=1)) == 0


@pytest.mark.parametrize("norm", ["RMSNormalization", "LayerNormalization"])
@pytest.mark.parametrize(("shape", "left"), [((FEATURES,), 0), ((1, FEATURES), 1)])
def test_a_bias_before_the_sum_is_added_by_the_same_operator(norm, shape, left):
    made = model(norm)
    tensor = ir.tensor(np.arange(FEATURES, dtype=np.float32).reshape(shape), name="before")
    bias = ir.Value(name="before", shape=ir.Shape(shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    made.graph.register_initializer(bias)
    first = made.graph[0]
    add = ir.node("Add", [first.inputs[1], bias])
    add.outputs[0].name, add.outputs[0].shape, add.outputs[0].type = "shifted", first.inputs[1].shape, bias.type
    made.graph.insert_before(first, add)
    first.replace_input_with(1, add.outputs[0])
    wanted = [run(made, *arrays(*sizes)) for sizes in ((1, 1), (3, 7))]
    assert fuse_skip_norms(made, biases=True) == 1
    assert [node.op_type for node in made.graph].count("Add") == 1 + left  # the doubled sum
    for sizes, before in zip(((1, 1), (3, 7)), wanted, strict=True):
        for got, one in zip(run(made, *arrays(*sizes)), before, strict=True):
            np.testing.assert_allclose(got, one, atol=1e-5)
