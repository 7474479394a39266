"""Static int8 of small graphs: smoothing is exact, outliers cost less, and what cannot be rounded stays float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.artifact.ledger import Proof
from onnxport.errors import VerificationError
from onnxport.graph.quantization.smoothing import SMOOTHING, find_activations, smooth, smoothing_factors
from onnxport.graph.quantization.static_int8 import Plan, quantize_static
from onnxport.graph.quantization.weight_only import load_graph
from onnxport.variants.loss import measure_loss
from onnxport.variants.samples import Samples
from onnxport.variants.sensitivity import BUDGET
from onnxport.variants.static_plan import choose_plan
from onnxport.verification.ledger.derived import prove_derived

WIDTH, WIDE = 48, 64
RNG = np.random.default_rng(0)


def write(file: Path, nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray]) -> Path:
    """A graph from x (rows, tokens, WIDTH) to y."""
    shape = ["rows", "tokens", WIDTH]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), file)
    return file


def block(file: Path) -> Path:
    """A layer with a residual, whose normalization makes two channels a hundred times larger than the others."""
    scale = np.ones(WIDTH)
    scale[[3, 17]] = 100
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale"], ["norm"], "norm"),
        helper.make_node("MatMul", ["norm", "up"], ["wide"], "up"),
        helper.make_node("Gelu", ["wide"], ["gelu"], "gelu"),
        helper.make_node("MatMul", ["gelu", "down"], ["narrow"], "down"),
        helper.make_node("Add", ["narrow", "norm"], ["sum"], "sum"),
        helper.make_node("LayerNormalization", ["sum", "ones"], ["sentence_embedding"], "last"),
    ]
    up = RNG.standard_normal((WIDTH, WIDE)) / 7
    up[[3, 17]] /= 50
    weights = {"scale": scale, "up": up, "down": RNG.standard_normal((WIDE, WIDTH)), "ones": np.ones(WIDTH) / scale}
    return write(file, nodes, weights)


def run(file: Path, call: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return {"sentence_embedding": session.run(None, call)[0]}


def calls(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.standard_normal((2, 5 + number, WIDTH)).astype(np.float32)} for number in range(count)]


def loss(base: Path, variant: Path, given: list[dict[str, np.ndarray]]) -> float:
    return measure_loss(lambda call: run(base, call), lambda call: run(variant, call), given, "").mean


def test_smoothing_changes_no_bit(tmp_path):
    model = load_graph(block(tmp_path / "model.onnx"))
    largest = {one.name: np.geomspace(0.1, 100, len(one.rows()[0])) for one in find_activations(model)}
    factors = {
        one.name: smoothing_factors(largest[one.name], one.rows(), 0.65) for one in find_activations(model)
    }  # fmt: skip
    assert set(factors) == {"norm", "gelu"} and factors["norm"].max() / factors["norm"].min() >= 16
    assert all((np.frexp(factor)[0] == 0.5).all() for factor in factors.values())
    smooth(model, factors)
    import onnx_ir as ir

    ir.save(model, tmp_path / "smoothed.onnx")
    (call,) = calls(1)
    one, other = (run(tmp_path / name, call)["sentence_embedding"] for name in ("model.onnx", "smoothed.onnx"))
    assert np.array_equal(one, other)


def test_outliers_are_smoothed_and_proved(tmp_path):
    file, given = block(tmp_path / "model.onnx"), calls(8)
    chosen = choose_plan(file, Samples(given, "8 texts", 16, real=True))
    assert chosen.smoothing > 0 and "norm" in chosen.plan.factors and not chosen.float_activations
    quantize_static(file, tmp_path / "plain.onnx", given)
    quantize_static(file, tmp_path / "smooth.onnx", given, plan=chosen.plan)
    others = calls(4)
    assert loss(file, tmp_path / "smooth.onnx", others) < 0.2 * loss(file, tmp_path / "plain.onnx", others)
    ledger = prove_derived([file], tmp_path / "smooth.onnx")
    assert ledger.weights["up_quantized"].proof is Proof.BOUNDED
    assert f"norm{SMOOTHING}" in ledger.weights["up_quantized"].transform
    model = onnx.load(tmp_path / "smooth.onnx")
    (factors,) = (one for one in model.graph.initializer if one.name == f"norm{SMOOTHING}")
    array = numpy_helper.to_array(factors).copy()
    array[5] *= 2
    factors.CopyFrom(numpy_helper.from_array(array, factors.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(VerificationError):
        prove_derived([file], tmp_path / "wrong.onnx")


def test_residuals_read_what_was_not_rounded(tmp_path):
    file = block(tmp_path / "model.onnx")
    quantize_static(file, tmp_path / "static.onnx", calls(4), plan=Plan())
    model = onnx.load(tmp_path / "static.onnx")
    (node,) = (one for one in model.graph.node if one.op_type == "Add")
    assert "norm" in node.input


def test_what_cannot_be_rounded_stays_float32(tmp_path):
    """One token in a hundred is a thousand times larger: no factor of a channel helps."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], "first"),
        helper.make_node("MatMul", ["a", "second"], ["b"], "second"),
        helper.make_node("LayerNormalization", ["b", "ones"], ["c"], "norm"),
        helper.make_node("MatMul", ["c", "third"], ["sentence_embedding"], "third"),
    ]
    weights = {name: RNG.standard_normal((WIDTH, WIDTH)) / 7 for name in ("first", "second", "third")}
    file = write(tmp_path / "model.onnx", nodes, weights | {"ones": np.ones(WIDTH)})
    given = calls(8)
    given[0]["x"][0, 0] *= 1000
    samples = Samples(given, "8 texts", 16, real=True)
    chosen = choose_plan(file, samples)
    assert set(chosen.float_activations) == {"x", "a"} and set(chosen.plan.float_products) == {"first", "second"}
    quantize_static(file, tmp_path / "static.onnx", given, plan=chosen.plan)
    names = {one.name for one in onnx.load(tmp_path / "static.onnx").graph.initializer}
    assert {"first", "second", "third_quantized"} <= names and "third" not in names
    assert loss(file, tmp_path / "static.onnx", given) < BUDGET
    generated = choose_plan(file, Samples(given, "8 generated inputs", 16))
    assert not generated.float_activations
