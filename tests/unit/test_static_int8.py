"""Static int8 of weights made to overflow: fused integer products give what the same integers give in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from onnxport.errors import VerificationError
from onnxport.graph.quantization import static_int8
from onnxport.graph.quantization.saturation import find_saturations
from onnxport.graph.quantization.static_int8 import METHODS, quantize_static
from onnxport.graph.quantization.weight_only import load_graph
from onnxport.graph.quantization.weight_ranges import WeightRanges

_RNG = np.random.default_rng(0)
# (body, shape of the weights, shape of an input)
_PRODUCTS = {
    "matmul": ("y = MatMul(x, w)", (64, 24), (5, 64)),
    "gemm of rows": ("y = Gemm<transB = 1>(x, w, b)", (24, 64), (5, 64)),
    "convolution": ("y = Conv(x, w, b)", (24, 6, 3, 3), (2, 6, 9, 9)),
    "convolution in groups": ("y = Conv<group = 2>(x, w, b)", (24, 3, 3, 3), (2, 6, 9, 9)),
    "depthwise": ("y = Conv<group = 6>(x, w, b)", (6, 1, 3, 3), (2, 6, 9, 9)),
}


def write(name: str, file: Path) -> Path:
    """A product with weights of one sign, whose pairs are as large as they can be."""
    body, shape, given = _PRODUCTS[name]
    axes, out = (
        ", ".join("n" * (at == 0) or str(size) for at, size in enumerate(given)),
        ", ".join("abcd"[: len(given)]),
    )
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> product (float[{axes}] x) => (float[{out}] y) {{ {body} }}'
    )
    weights = np.full(shape, 0.5, np.float32) + _RNG.uniform(0, 0.01, shape).astype(np.float32)
    bias = _RNG.standard_normal(shape[0]).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    if ", b)" in body:
        model.graph.initializer.append(numpy_helper.from_array(bias, "b"))
    onnx.save(model, file)
    return file


def run(file: Path, given: np.ndarray, *, fused: bool = True) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if not fused:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"]).run(None, {"x": given})[0]


@pytest.mark.parametrize("name", _PRODUCTS)
def test_integer_products_do_not_overflow(name, tmp_path):
    source, target = write(name, tmp_path / "float.onnx"), tmp_path / "static.onnx"
    shape = _PRODUCTS[name][2]
    some, largest = _RNG.uniform(0, 4, (3, *shape[1:])).astype(np.float32), np.full(shape, 4, np.float32)
    quantize_static(source, target, [{"x": some}, {"x": largest}])
    assert not find_saturations(load_graph(target))
    for given in (largest, np.concatenate([some, largest])):  # every activation is 255
        wanted = run(source, given)
        assert np.abs(run(target, given) - wanted).max() < 0.02 * np.abs(wanted).max()
        assert np.abs(run(target, given) - run(target, given, fused=False)).max() <= 0.01 * np.abs(wanted).max()
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("float.onnx", "static.onnx")] == []


def test_full_range_would_be_found(tmp_path, monkeypatch):
    source = write("convolution", tmp_path / "float.onnx")
    wide = [{"axis": 0, "reduce_range": False}] * 24
    monkeypatch.setattr(
        "onnxport.graph.quantization.weight_ranges.find_weight_ranges",
        lambda *_, **__: WeightRanges({"w": wide}, table_products=False),
    )
    with pytest.raises(VerificationError):
        quantize_static(source, tmp_path / "static.onnx", [{"x": np.ones((2, 6, 9, 9), np.float32)}])


@pytest.mark.parametrize("method", METHODS)
def test_ranges_follow_from_the_method(method, tmp_path):
    source, target = write("matmul", tmp_path / "float.onnx"), tmp_path / "static.onnx"
    values = _RNG.standard_normal((4000, 64)).astype(np.float32)
    values[0, 0] = 20  # one in a quarter of a million
    quantize_static(source, target, [{"x": values[:2500]}, {"x": values[2500:]}], method)
    scales = {one.name: numpy_helper.to_array(one) for one in onnx.load(target).graph.initializer}
    if method != "entropy":  # which keeps such values: it divides into 128 bins
        assert (float(scales["x_scale"]) > 0.08) == (method == "minmax")
    wanted = run(source, values[1:])
    assert np.abs(run(target, values[1:]) - wanted).max() < 0.1 * np.abs(wanted).max()


def test_tables_are_read_from_blocks(tmp_path):
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> table (int64[n, t] ids) => (float[n, t, 24] y)
        { x = Gather(table, ids)
          y = MatMul(x, w) }""")
    table, weights = (_RNG.standard_normal(shape).astype(np.float32) for shape in ((50, 64), (64, 24)))
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for array, name in ((table, "table"), (weights, "w"))
    )
    onnx.save(model, tmp_path / "float.onnx")
    ids = _RNG.integers(0, 50, (3, 7))
    static_int8.quantize_static(tmp_path / "float.onnx", tmp_path / "static.onnx", [{"ids": np.arange(50)[None]}])
    made = {one.name: list(one.dims) for one in onnx.load(tmp_path / "static.onnx").graph.initializer}
    assert made["table.q8"] == [50, 2, 32] and "table" not in made
    session = onnxruntime.InferenceSession(tmp_path / "static.onnx", providers=["CPUExecutionProvider"])
    found, wanted = session.run(None, {"ids": ids})[0], table[ids] @ weights
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
