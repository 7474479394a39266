"""Graphs with their weights inside, run on weights that are mapped from the graph file."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxport.errors import FolderError
from onnxport.runtime.mapped_weights import MAPPED_FROM_BYTES, graph_without_weights
from onnxport.runtime.session import OnnxSession

ROWS = 150


def _model(rng: np.random.Generator) -> onnx.ModelProto:
    """y = x @ w + b: one weight above the limit, one below it; a field of every wire type."""
    weight = rng.standard_normal((ROWS, ROWS)).astype(np.float32)
    assert weight.nbytes > MAPPED_FROM_BYTES
    bias = rng.standard_normal(ROWS).astype(np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "w"], ["product"]),
            onnx.helper.make_node("Add", ["product", "b"], ["sum"]),
            onnx.helper.make_node("LeakyRelu", ["sum"], ["y"], alpha=0.3),
        ],
        "main",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", ROWS])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", ROWS])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(_model(np.random.default_rng(0)), path)
    return path


def test_the_message_has_all_but_the_large_weights(file):
    message = graph_without_weights(file)
    assert message is not None
    assert len(message) < file.stat().st_size - ROWS * ROWS * 4 + 100
    original, mapped = onnx.load(file), onnx.ModelProto.FromString(message)
    weight = mapped.graph.initializer[0]
    place = {entry.key: entry.value for entry in weight.external_data}
    start, length = int(place["offset"]), int(place["length"])
    assert place["location"] == "model.onnx"
    assert file.read_bytes()[start : start + length] == original.graph.initializer[0].raw_data
    weight.ClearField("external_data")
    weight.ClearField("data_location")
    weight.raw_data = original.graph.initializer[0].raw_data
    assert mapped == original


def test_it_computes_the_same(file):
    x = np.random.default_rng(1).standard_normal((7, ROWS)).astype(np.float32)
    plain, mapped = (OnnxSession(file, map_weights=flag).run({"x": x})["y"] for flag in (False, True))
    assert np.abs(plain).max() > 1
    np.testing.assert_allclose(mapped, plain, rtol=1e-5, atol=1e-5)


def test_it_is_the_file_that_is_read(file):
    """The weights come from the file and from nowhere else."""
    weights = onnx.numpy_helper.to_array(onnx.load(file).graph.initializer[0])
    content = file.read_bytes()
    file.write_bytes(content.replace(weights.tobytes(), np.zeros_like(weights).tobytes()))
    bias = onnx.numpy_helper.to_array(onnx.load(file).graph.initializer[1])
    result = OnnxSession(file, map_weights=True).run({"x": np.ones((1, ROWS), np.float32)})["y"]
    np.testing.assert_allclose(result[0], np.where(bias > 0, bias, 0.3 * bias), rtol=1e-6)


def test_a_relative_path_and_another_working_folder(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path.parent)
    session = OnnxSession(f"{tmp_path.name}/model.onnx", map_weights=True)
    assert session.run({"x": np.ones((2, ROWS), np.float32)})["y"].shape == (2, ROWS)


def test_weights_beside_the_graph_stay_there(file):
    ir.save(ir.load(file), file.with_name("beside.onnx"), external_data="beside.onnx_data", size_threshold_bytes=0)
    beside = file.with_name("beside.onnx")
    assert graph_without_weights(beside) is None
    x = np.ones((2, ROWS), np.float32)
    expected = OnnxSession(file).run({"x": x})["y"]
    np.testing.assert_allclose(OnnxSession(beside, map_weights=True).run({"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damaged_file_is_taken_for_whole(tmp_path_factory, data):
    whole = tmp_path_factory.getbasetemp() / "whole.onnx"
    if not whole.exists():
        onnx.save(_model(np.random.default_rng(0)), whole)
    content = whole.read_bytes()
    cut = whole.with_name("cut.onnx")
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    try:
        message = graph_without_weights(cut)
    except FolderError as error:
        assert "cut.onnx" in error.message
    else:  # cut between two fields of the model itself: no weights are left in it
        assert message is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"not a graph at all", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_graph_is_told(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(FolderError, match=r"x\.onnx is truncated, or not an ONNX graph|cannot load"):
        OnnxSession(tmp_path / "x.onnx", map_weights=True)
