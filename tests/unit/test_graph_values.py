"""Graph files read without onnx, and values from inside a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.errors import FolderError
from onnxport.formats.graph_file import read_graph_file
from onnxport.runtime.graph_values import graph_values

ROWS = 200  # 200 x 200 floats are mapped from the file


def save(path, **options):
    """y = relu(x @ w + b), and where(flag) of it in a branch."""
    rng = np.random.default_rng(0)
    branch = helper.make_graph(
        [helper.make_node("Mul", ["sum", "factor"], ["scaled"])],
        "then", [], [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(2), "factor")],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["product"], ["plain"])],
        "else", [], [helper.make_tensor_value_info("plain", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="first"),
        helper.make_node("Add", ["product", "b"], ["sum"], name="second"),
        helper.make_node("If", ["flag"], ["chosen"], name="choice", then_branch=branch, else_branch=other),
        helper.make_node("Relu", ["chosen"], ["y"], name="last"),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((ROWS, ROWS)).astype(np.float32), "w"),
        helper.make_tensor("b", TensorProto.FLOAT, [ROWS], rng.standard_normal(ROWS)),  # values one by one
        helper.make_tensor("half", TensorProto.FLOAT16, [3], [1.5, -2, 0.25]),
        helper.make_tensor("whole", TensorProto.INT8, [2], [-3, 5]),
        helper.make_tensor("long", TensorProto.INT64, [2], [-(2**40), 7]),
    ]
    graph = helper.make_graph(
        nodes, "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", ROWS]),
         helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", ROWS])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path, **options)
    return path


@pytest.mark.parametrize("beside", [False, True])
def test_nodes_and_weights_are_those_that_onnx_reads(tmp_path, beside):
    options = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 0} if beside else {}
    path = save(tmp_path / "model.onnx", **options)
    model, found = onnx.load(path), read_graph_file(path)
    assert [(n.name, n.op_type, [*n.input], [*n.output]) for n in model.graph.node] == [
        (n.name, n.operator, [*n.inputs], [*n.outputs]) for n in found.nodes
    ]
    assert set(found.nodes[2].captured) == {"sum", "product"}
    assert (found.opset, found.inputs, found.outputs) == (21, ("x", "flag"), ("y",))
    for tensor in model.graph.initializer:
        expected, read = numpy_helper.to_array(tensor), found.weights[tensor.name].read()
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)


def test_values_inside_a_graph(tmp_path):
    path = save(tmp_path / "model.onnx")
    weights = {name: weight.read() for name, weight in read_graph_file(path).weights.items()}
    x = np.random.default_rng(1).standard_normal((3, ROWS)).astype(np.float32)
    (found,) = graph_values(path, {"x": x, "flag": np.array(True), "unknown": x}, ["product", "sum", "y"])
    np.testing.assert_allclose(found["product"], x @ weights["w"], atol=1e-4)
    np.testing.assert_allclose(found["sum"], found["product"] + weights["b"], atol=1e-6)
    np.testing.assert_allclose(found["y"], np.maximum(2 * found["sum"], 0), atol=1e-6)


def test_values_come_in_groups_that_fit_into_memory(tmp_path, monkeypatch):
    path = save(tmp_path / "model.onnx")
    x = np.ones((2, ROWS), np.float32)
    whole = next(graph_values(path, {"x": x, "flag": np.array(False)}, ["product", "sum", "y"]))
    monkeypatch.setattr("onnxport.runtime.graph_values._GROUP", 1)
    parts = list(graph_values(path, {"x": x, "flag": np.array(False)}, ["product", "sum", "y"]))
    assert [list(part) for part in parts] == [["product"], ["sum"], ["y"]]
    for part in parts:
        for name, value in part.items():
            np.testing.assert_allclose(value, whole[name], atol=1e-6)


def test_a_graph_that_is_cut_off_is_refused(tmp_path):
    path = save(tmp_path / "model.onnx")
    content = path.read_bytes()
    for length in (0, 10, 1000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(FolderError):
            read_graph_file(path)


def test_weights_outside_of_the_folder_are_refused(tmp_path):
    path = save(
        tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"model.onnx_data", b"../../etc/passw"))
    with pytest.raises(FolderError):
        read_graph_file(path)
