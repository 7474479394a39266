"""A session's errors and checks, on a graph of two nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxport.artifact.folder import write_manifest
from onnxport.artifact.manifest import Component, Manifest
from onnxport.errors import FolderError, UsageError
from onnxport.runtime.graph_choice import choose_graphs
from onnxport.runtime.session import OnnxSession, check_sizes
from onnxport.specs import Limit, Restriction, TensorSpec

onnx = pytest.importorskip("onnx")

ROW = ("batch_size", "sequence_length")


def write_graph(file: Path) -> None:
    """total = sum over the tokens of input_ids * attention_mask (int64), and half = scale / 2 (float32)."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["total"], keepdims=0),
            helper.make_node("Mul", ["scale", "a_half"], ["half"]),
        ],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ROW) for name in ("input_ids", "attention_mask")]
        + [helper.make_tensor_value_info("scale", TensorProto.FLOAT, [2])],
        [
            helper.make_tensor_value_info("total", TensorProto.INT64, ["batch_size"]),
            helper.make_tensor_value_info("half", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("a_half", TensorProto.FLOAT, [], [0.5]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An onnxport folder with that graph; sequence_length at most 8 and a multiple of 2."""
    (tmp_path / "onnx").mkdir()
    write_graph(tmp_path / "onnx" / "model.onnx")
    inputs = (
        TensorSpec("input_ids", "int64", ROW),
        TensorSpec("attention_mask", "int64", ROW),
        TensorSpec("scale", "float32", (2,)),
    )
    outputs = (TensorSpec("total", "int64", ("batch_size",)), TensorSpec("half", "float32", (2,)))
    rules = (
        Restriction("sequence_length", Limit.AT_MOST, 8, "positions"),
        Restriction("sequence_length", Limit.MULTIPLE, 2, "windows"),
        Restriction("elsewhere", Limit.FIXED, 3, "no input has it"),
    )
    component = Component("model", "onnx/model.onnx", 18, "float32", 0, inputs, outputs, rules)
    write_manifest(tmp_path, Manifest("feature-extraction", "pt", "m", "M", {}, (component,)))
    return tmp_path


def feed(length: int = 4, batch: int = 2) -> dict[str, np.ndarray]:
    ids = np.arange(batch * length, dtype=np.int64).reshape(batch, length)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "scale": np.ones(2, np.float32)}


@pytest.mark.parametrize("part", ["", "onnx/model.onnx"])
def test_run(folder: Path, part: str) -> None:
    session = OnnxSession(folder / part, threads=1)
    assert [spec.name for spec in session.inputs] == ["input_ids", "attention_mask", "scale"]
    assert session.inputs[0] == TensorSpec("input_ids", "int64", ROW)
    assert [spec.dtype for spec in session.outputs] == ["int64", "float32"]
    found = session.run(feed())
    assert list(found) == ["total", "half"]
    np.testing.assert_array_equal(found["total"], [6, 22])
    np.testing.assert_array_equal(found["half"], [0.5, 0.5])


def test_types_of_the_same_kind_are_converted(folder: Path) -> None:
    session = OnnxSession(folder)
    inputs = {**feed(), "attention_mask": np.ones((2, 4), np.int32), "scale": np.ones(2)}
    np.testing.assert_array_equal(session.run(inputs)["total"], [6, 22])
    for wrong in (np.ones((2, 4)), np.full((2, 4), "a")):
        with pytest.raises(UsageError, match="the graph takes int64"):
            session.run({**feed(), "input_ids": wrong})


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"input_ids": None}, "'input_ids' is missing"),
        ({"inputs_ids": np.ones((2, 4), np.int64)}, "no input 'inputs_ids'"),
        ({"scale": np.ones(3, np.float32)}, "Axis 0 of scale is 3, the graph takes only 2"),
        ({"scale": np.ones((1, 2), np.float32)}, "scale has 2 axes"),
        ({"attention_mask": np.ones((2, 6), np.int64)}, "sequence_length is 4 in input_ids but 6 in attention_mask"),
        (feed(10), r"sequence_length is 10, it must be at most 8 \(positions\)"),
        (feed(5), "it must be multiple of 2"),
    ],
)
def test_inputs_that_do_not_fit(folder: Path, changes: dict[str, np.ndarray | None], part: str) -> None:
    inputs = {name: value for name, value in {**feed(), **changes}.items() if value is not None}
    with pytest.raises(UsageError, match=part):
        OnnxSession(folder).run(inputs)


def test_what_onnx_runtime_refuses(folder: Path) -> None:
    session = OnnxSession(folder / "onnx" / "model.onnx")
    # As if nobody had known that the two lengths must be equal.
    session.inputs = (
        TensorSpec("input_ids", "int64", ("a", "b")),
        TensorSpec("attention_mask", "int64", ("a", "c")),
        TensorSpec("scale", "float32", (2,)),
    )
    with pytest.raises(UsageError, match=r"cannot run model\.onnx at these sizes \(input_ids 2x5"):
        session.run({**feed(), "input_ids": feed(5)["input_ids"]})


def test_folders_that_cannot_be_loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(FolderError, match="no component 'modle'") as caught:
        OnnxSession(folder, "modle")
    assert "'model'" in str(caught.value)
    (folder / "onnx" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(FolderError, match=r"model\.onnx"):
        OnnxSession(folder)
    (folder / "onnx" / "model.onnx").unlink()
    for path in (folder, folder / "absent.onnx", tmp_path_factory.mktemp("empty")):
        with pytest.raises(FolderError):
            OnnxSession(path)


def test_axes_that_are_composed() -> None:
    specs = [TensorSpec("past", "float32", ("past_length",)), TensorSpec("new", "float32", ("length",))]
    both = TensorSpec("mask", "float32", ("past_length + length",))
    arrays = {"past": np.ones(3), "new": np.ones(2), "mask": np.ones(5)}
    assert check_sizes([*specs, both], [], arrays) == {"past_length": 3, "length": 2}
    with pytest.raises(UsageError, match=r"past_length \+ length = 5"):
        check_sizes([both, *specs], [], {**arrays, "mask": np.ones(4)})
    equal = Restriction("length", Limit.EQUAL, "past_length", "torch.export")
    with pytest.raises(UsageError, match="equal to past_length"):
        check_sizes(specs, [equal], arrays)


@pytest.mark.parametrize(
    ("component", "wanted"),
    [
        ("model", ["encoder_model", "decoder_model_merged"]),
        ("model_int8", ["encoder_model_int8", "decoder_model_merged_int8"]),
        ("decoder_model_merged_int8", ["encoder_model_int8", "decoder_model_merged_int8"]),
        ("encoder_model", ["encoder_model", "decoder_model_merged"]),
        ("model_q4", ["encoder_model", "decoder_model_merged_q4"]),
        ("model_q8", None),
        ("decoder", None),
        ("", None),
    ],
)
def test_graphs_that_work_together(component: str, wanted: list[str] | None) -> None:
    graphs = ("encoder_model", "decoder_model_merged")
    known = [*graphs, "encoder_model_int8", "decoder_model_merged_int8", "decoder_model_merged_q4"]
    if wanted is None:
        with pytest.raises(UsageError, match="has no graphs"):
            choose_graphs(Path("folder"), known, graphs, component)
    else:
        assert choose_graphs(Path("folder"), known, graphs, component) == wanted
