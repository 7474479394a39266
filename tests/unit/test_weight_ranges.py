"""Dynamic int8 of weights made to overflow: right whatever processor made the graph or runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from onnxport.errors import VerificationError
from onnxport.graph.quantization import weight_ranges
from onnxport.graph.quantization.quantize import quantize_dynamic
from onnxport.graph.quantization.saturation import LARGEST_PAIR, pair_sums
from onnxport.graph.quantization.weight_ranges import Ranges, find_ranges
from tests.unit.integer_products import Array, exact_product, run, saturating_product

_RNG = np.random.default_rng(0)
_ROWS, _COLUMNS = 64, 32


def _normal(*shape: int) -> Array:
    return _RNG.standard_normal(shape).astype(np.float32)


def _runs_of_equal_signs() -> Array:
    weights = np.abs(_normal(_ROWS, _COLUMNS))
    return weights * np.where(np.arange(_ROWS) // 2 % 2, -1, 1)[:, None].astype(np.float32)


_WEIGHTS = {
    "all at the largest": np.full((_ROWS, _COLUMNS), 0.5, np.float32),
    "all at the smallest": np.full((_ROWS, _COLUMNS), -0.5, np.float32),
    "normal": _normal(_ROWS, _COLUMNS),
    "equal signs in pairs": _runs_of_equal_signs(),
    "an odd number of rows": np.full((_ROWS - 1, _COLUMNS), 0.5, np.float32),
    "one large pair": np.where(np.arange(_ROWS) < 2, 3, 0.1)[:, None] * np.ones((1, _COLUMNS), np.float32),
    "columns of zeros": np.where(np.arange(_COLUMNS) % 2, 0.5, 0) * np.ones((_ROWS, 1), np.float32),
    "one row": np.full((1, _COLUMNS), 0.5, np.float32),
}
_BODIES = {
    "matmul": "y = MatMul(x, w)",
    "gemm": "y = Gemm(x, w)",
    "gemm of rows": "y = Gemm<transB = 1>(x, w)",
    "gemm with a factor": "y = Gemm<alpha = 2.0>(x, w)",
    "tied": """
        e = Gather(w, ids)
        s = Add(x, e)
        y = Gemm<transB = 1>(s, w)""",
    "a table that is multiplied": """
        e = Gather(w, ids)
        s = Add(x, e)
        y = MatMul(s, w)""",
    "read in two ways": """
        a = MatMul(x, w)
        y = Gemm<transB = 1>(a, w)""",
    "read twice": """
        a = MatMul(x, w)
        y = MatMul(a, w)""",
    "transposed in the graph": """
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(x, t)""",
}
_SQUARE = ("tied", "a table that is multiplied", "read in two ways", "read twice")


def write(body: str, file: Path, **weights: Array) -> Path:
    """A graph of "x" [rows, columns] and constants."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> product (float[n, k] x) => (float[n, m] y) {' + body + "}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, file)
    return file


def integer_weights(file: Path) -> list[Array]:
    """The signed weights of the products of a graph."""
    model = ir.load(file)
    return [
        node.inputs[1].const_value.numpy()  # type: ignore[union-attr]
        for node in model.graph
        if node.op_type == "MatMulInteger" and node.inputs[1].const_value is not None  # type: ignore[union-attr]
    ]


def largest_inputs(rows: int, columns: int) -> Array:
    """Activations of which each becomes 255."""
    return np.full((rows, columns), 3.7, np.float32)


@pytest.mark.parametrize("calls", [1, 6])
@pytest.mark.parametrize("weights", _WEIGHTS)
def test_the_largest_activations_times_any_weights(weights: str, calls: int, tmp_path: Path) -> None:
    w = _WEIGHTS[weights].astype(np.float32)
    source = write("y = MatMul(x, w)", tmp_path / "model.onnx", w=w)
    quantize_dynamic(source, tmp_path / "int8.onnx")
    (rounded,) = integer_weights(tmp_path / "int8.onnx")
    assert rounded.dtype == np.int8 and pair_sums(rounded).max() <= LARGEST_PAIR
    # On a processor that adds in 16 bits, whichever this one is.
    activations = np.concatenate([np.full((1, len(w)), 255), _RNG.integers(0, 256, (50, len(w)))]).astype(np.uint8)
    np.testing.assert_array_equal(saturating_product(activations, rounded), exact_product(activations, rounded))
    x = largest_inputs(calls, len(w))
    # Rounding gives less than 3 % of what the largest sum is made of; saturation takes half of it.
    np.testing.assert_allclose(run(tmp_path / "int8.onnx", x=x), x @ w, atol=0.03 * (x @ np.abs(w)).max())


@pytest.mark.parametrize("body", _BODIES)
def test_every_way_to_read_a_weight(body: str, tmp_path: Path) -> None:
    shape = (_ROWS, _ROWS) if body in _SQUARE else (_COLUMNS, _ROWS) if "ows" in body or "trans" in body else None
    w = np.full(shape or (_ROWS, _COLUMNS), 0.5, np.float32)
    w[::2] *= 0.9
    source = write(_BODIES[body], tmp_path / "model.onnx", w=w, ids=np.array([3], np.int64))
    quantize_dynamic(source, tmp_path / "int8.onnx")
    assert all(pair_sums(weights).max() <= LARGEST_PAIR for weights in integer_weights(tmp_path / "int8.onnx"))
    x = largest_inputs(3, _ROWS)
    wanted = run(source, x=x)
    np.testing.assert_allclose(run(tmp_path / "int8.onnx", x=x), wanted, atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize("shape", [(_ROWS,), (2, _ROWS, _COLUMNS)])
def test_vectors_and_batches_of_matrices_stay_float32(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> product (float[b, n, k] x) => (float y) {y = MatMul(x, w)}'
    )
    model.graph.node[0].name = "product"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    w = np.abs(_normal(*shape)) + 1
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    onnx.save(model, tmp_path / "model.onnx")
    quantize_dynamic(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    x = np.full((2, 3, _ROWS), 3.7, np.float32)
    np.testing.assert_allclose(run(tmp_path / "int8.onnx", x=x), x @ w, rtol=1e-5)


def test_the_error_of_a_weight_is_nearer_to_that_of_the_full_range_than_of_half(tmp_path: Path) -> None:
    w = _normal(384, 384)
    source = write("y = MatMul(x, w)", tmp_path / "model.onnx", w=w)
    ranges = find_ranges(source).overrides["w"]
    scale = np.array([row["rmax"] for row in ranges]) / 127
    full = np.abs(w).max(0) / 127

    def error(scale: Any) -> float:
        return float(np.sqrt(np.mean((np.round(w / scale) * scale - w) ** 2)))

    assert error(full) < error(scale) < 1.4 * error(full)
    assert error(full * 127 / 64) > 1.8 * error(full)


def test_a_weight_outside_of_the_bound_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write("y = MatMul(x, w)", tmp_path / "model.onnx", w=_WEIGHTS["all at the largest"])
    wide = [{"axis": 1, "reduce_range": False} for _ in range(_COLUMNS)]
    monkeypatch.setattr(weight_ranges, "find_ranges", lambda file: Ranges({"w": wide}, False))
    with pytest.raises(VerificationError, match=r"can give 64770.*Nothing was written"):
        quantize_dynamic(source, tmp_path / "int8.onnx")
