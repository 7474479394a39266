"""The tables of benchmarks/faults.py, and the edits that plant its faults. The faults themselves take minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from benchmarks.planted import graph_edits, weight_edits
from benchmarks.planted.fault import STAGES, NothingToPlantError
from benchmarks.planted.models import MODELS
from benchmarks.planted.table import FAULTS


def test_the_tables_are_wide_enough_and_whole() -> None:
    assert len(FAULTS) >= 120
    assert len({fault.model for fault in FAULTS}) >= 15
    assert {fault.model for fault in FAULTS} <= MODELS.keys()
    assert {fault.stage for fault in FAULTS} == set(STAGES)


def _table() -> ir.Model:
    """y = table[ids] with ids (batch, places)."""
    ids = ir.Value(name="ids", shape=ir.Shape(["batch", "places"]), type=ir.TensorType(ir.DataType.INT64))
    numbers = ir.tensor(np.arange(20, dtype=np.float32).reshape(5, 4), name="table")
    table = ir.Value(name="table", shape=numbers.shape, type=ir.TensorType(ir.DataType.FLOAT), const_value=numbers)
    node = ir.node("Gather", [table, ids], outputs=[ir.Value(name="rows", type=ir.TensorType(ir.DataType.FLOAT))])
    last = ir.node("Identity", [node.outputs[0]], outputs=[ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT))])
    last.outputs[0].shape = ir.Shape(["batch", "places", 4])
    graph = ir.Graph([ids], [last.outputs[0]], nodes=[node, last], initializers=[table], opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


def _run(model: ir.Model, ids: list[list[int]], folder: Path) -> np.ndarray:
    ir.save(model, folder / "m.onnx")
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"ids": np.array(ids)})[0])


def test_an_altered_weight_keeps_its_record(tmp_path: Path) -> None:
    model = _table()
    value = model.graph.initializers["table"]
    value.const_value.source = "model.safetensors: embed"
    weight_edits.alter("embed", weight_edits.row(2, 1.5))(model)
    assert value.const_value.source == "model.safetensors: embed"
    assert _run(model, [[2, 3]], tmp_path)[0].tolist() == [[12, 13.5, 15, 16.5], [12, 13, 14, 15]]


def test_rows_are_mixed_from_a_number_on(tmp_path: Path) -> None:
    model = _table()
    graph_edits.insert(graph_edits.graph_input("ids"), graph_edits.rows_mixed(2))(model)
    assert _run(model, [[0], [1], [2], [3]], tmp_path)[:, 0, 0].tolist() == [0, 4, 0, 0]


def test_a_size_beyond_a_threshold_is_off(tmp_path: Path) -> None:
    model = _table()
    graph_edits.insert(graph_edits.output_of("Gather"), graph_edits.scaled_beyond(1, 2, 2.0))(model)
    assert _run(model, [[1, 1]], tmp_path)[0, 0, 0] == 4
    assert _run(model, [[1, 1, 1]], tmp_path)[0, 0, 0] == 8


def test_a_place_that_is_not_there_is_told() -> None:
    with pytest.raises(NothingToPlantError):
        graph_edits.attribute("Attention", "scale", 1.0)(_table())


@pytest.mark.parametrize(("bits", "kept"), [(10, 1 + 2**-10), (7, 1.0)])
def test_numbers_are_rounded_to_a_mantissa(bits: int, kept: float) -> None:
    assert weight_edits.rounded(bits)(np.array([1 + 2**-10], np.float32))[0] == np.float32(kept)
