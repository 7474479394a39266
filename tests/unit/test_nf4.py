"""Weights of 4 bits as bitsandbytes has them: values, files with two names, and the ledger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from onnxport.artifact.ledger import Proof
from onnxport.errors import VerificationError
from onnxport.graph.quantization.nf4 import LEVELS, use_nf4, use_nf4_values
from onnxport.graph.quantization.weight_only import load_graph
from onnxport.verification.ledger.derived import prove_derived

_INPUTS, _OUTPUTS = 352, 80  # larger than what stays inside a graph that is mapped; blocks go from row to row


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> products (float[n, 352] x) => (float[n, 80] y)
        { a = MatMul(x, w)
          t = Gemm<transB = 1>(a, v, b)
          y = Add(t, a) }""")
    rng = np.random.default_rng(0)
    arrays = {"w": (_INPUTS, _OUTPUTS), "v": (_OUTPUTS, _OUTPUTS), "b": (_OUTPUTS,)}
    for name, shape in arrays.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def nearest_levels(weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs) rounded, in numpy."""
    blocks = weight.reshape(-1, 64)
    largest = np.abs(blocks).max(-1, keepdims=True)
    return (LEVELS[np.abs(blocks[..., None] / largest[..., None] - LEVELS).argmin(-1)] * largest).reshape(weight.shape)


def test_values_are_the_nearest_levels_also_of_a_linked_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "second.onnx").hardlink_to(source)
    model = load_graph(tmp_path / "second.onnx")
    before = {one.name: numpy_helper.to_array(one) for one in onnx.load(source).graph.initializer}
    use_nf4_values(model)
    found = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if name != "b"}
    assert np.allclose(found["w"], nearest_levels(np.ascontiguousarray(before["w"].T)).T, atol=1e-6)
    assert np.allclose(found["v"], nearest_levels(before["v"]), atol=1e-6)
    assert np.abs(found["w"] - before["w"]).max() > 0.1


@pytest.mark.parametrize("fault", [None, "level", "scale"])
def test_the_ledger_knows_wrong_levels(source: Path, tmp_path: Path, fault: str | None) -> None:
    model = load_graph(source)
    assert use_nf4(model) == 2
    target = tmp_path / "target.onnx"
    ir.save(model, target)
    saved = onnx.load(target)
    tensors = {one.name: one for one in saved.graph.initializer}
    assert set(tensors) == {"w.nf4", "w.absmax", "v.nf4", "v.absmax", "b"}
    if fault is not None:
        tensor = tensors["w.nf4" if fault == "level" else "v.absmax"]
        values = numpy_helper.to_array(tensor).copy()
        values[5] = values[5] ^ 16 if fault == "level" else values[5] * 1.01
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(saved, target)
        with pytest.raises(VerificationError):
            prove_derived([source], target)
        return
    ledger = prove_derived([source], target)
    assert {name for name, proof in ledger.weights.items() if proof.proof is Proof.BOUNDED} == set(tensors) - {"b"}
