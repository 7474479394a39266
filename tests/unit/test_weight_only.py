"""Weights in blocks: the rounding, and graphs that compute with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from onnxport.errors import UsageError
from onnxport.graph.quantization import blocks
from onnxport.graph.quantization.quantize import write_nf4, write_weight_only
from onnxport.graph.quantization.weight_only import (
    FLOAT_ACTIVATIONS,
    find_weights,
    load_graph,
    quantize_weights,
    set_accuracy_level,
    use_dequantized_weights,
)

_RNG = np.random.default_rng(0)
_HIDDEN, _WORDS = 64, 96
_GRAPHS = {
    "matmul": "y = MatMul(x, w)",
    "transposed": """
        t = Transpose<perm = [1, 0]>(table)
        y = MatMul(x, t)""",
    "gemm": """
        flat = Reshape(x, rows)
        y = Gemm<transB = 1>(flat, table, bias)""",
    "gemm of columns": """
        flat = Reshape(x, rows)
        y = Gemm(flat, w)""",
    "tied": """
        e = Gather(table, ids)
        s = Add(e, x)
        flat = Reshape(s, rows)
        y = Gemm<transB = 1>(flat, table)""",
    "twice": """
        a = MatMul(x, square)
        b = Tanh(a)
        y = MatMul(b, square)""",
    "short last block": """
        part = Slice(x, zero, fifty, last)
        y = MatMul(part, odd)""",
}
_KEPT = {
    "also added": """
        z = MatMul(x, square)
        y = Add(z, square)""",
    "both ways": """
        t = Transpose<perm = [1, 0]>(square)
        a = MatMul(x, t)
        y = MatMul(a, square)""",
    "on the left": """
        t = Transpose<perm = [0, 2, 1]>(x)
        y = MatMul(table, t)""",
    "scaled": """
        flat = Reshape(x, rows)
        y = Gemm<alpha = 2.0>(flat, w)""",
    "few columns": "y = MatMul(x, narrow)",
}


def _weights() -> dict[str, np.ndarray[Any, Any]]:
    def numbers(*shape: int) -> np.ndarray[Any, Any]:
        return (np.random.default_rng(shape).standard_normal(shape) * 0.2).astype(np.float32)

    return {
        "w": numbers(_HIDDEN, _WORDS), "table": numbers(_WORDS, _HIDDEN), "square": numbers(_HIDDEN, _HIDDEN),
        "odd": numbers(50, _WORDS), "narrow": numbers(_HIDDEN, 3), "bias": numbers(_WORDS),
        "rows": np.array([-1, _HIDDEN]), "zero": np.array([0]), "fifty": np.array([50]), "last": np.array([-1]),
    }  # fmt: skip


def _save(body: str, file: Path, *, external: bool = False) -> Path:
    head = (
        '<ir_version: 10, opset_import: ["" : 21]>\ng (float[batch, length, 64] x, int64[batch, length] ids) => (y) {'
    )
    model = ir.from_onnx_text(f"{head}\nunused = Identity(ids)\n{body}\n}}")
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, array in _weights().items():
        if name in used:
            used[name].const_value = ir.tensor(array, name=name)
            used[name].shape, used[name].type = (
                ir.Shape(array.shape),
                ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            )
            model.graph.register_initializer(used[name])
    ir.save(model, file, **({"external_data": f"{file.name}_data", "size_threshold_bytes": 64} if external else {}))
    return file


def _run(file: Path) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(5)
    feed = {"x": rng.standard_normal((3, 7, _HIDDEN)).astype(np.float32), "ids": rng.integers(0, _WORDS, (3, 7))}
    return np.asarray(onnxruntime.InferenceSession(file).run(None, feed)[0])


@pytest.mark.parametrize("external", [False, True], ids=["inside", "beside"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", _GRAPHS)
def test_the_graph_computes_with_the_rounded_numbers(kind: str, bits: int, external: bool, tmp_path: Path) -> None:
    source = _save(_GRAPHS[kind], tmp_path / "m.onnx", external=external)
    rounded, blocked = load_graph(source), load_graph(source)
    use_dequantized_weights(rounded, bits)
    assert quantize_weights(blocked, bits, FLOAT_ACTIVATIONS) == 1
    ir.save(rounded, tmp_path / "rounded.onnx")
    ir.save(blocked, tmp_path / "blocked.onnx")
    wanted, found = _run(tmp_path / "rounded.onnx"), _run(tmp_path / "blocked.onnx")
    np.testing.assert_allclose(found, wanted, atol=1e-5 + 1e-5 * np.abs(wanted).max())
    assert np.abs(found - _run(source)).max() > 1e-4  # it is rounded
    assert not {value.name for value in blocked.graph.initializers.values()} & {"w", "table", "square", "odd"}


@pytest.mark.parametrize("kind", _KEPT)
def test_other_uses_keep_the_weight(kind: str, tmp_path: Path) -> None:
    model = load_graph(_save(_KEPT[kind], tmp_path / "m.onnx"))
    assert find_weights(model) == []


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    model = load_graph(_save(_GRAPHS["tied"], tmp_path / "m.onnx"))
    quantize_weights(model, 4, FLOAT_ACTIVATIONS)
    large = [name for name, value in model.graph.initializers.items() if value.const_value.nbytes > 1000]
    assert large == ["table.q4"]


def test_activations_of_8_bits_are_less_exact(tmp_path: Path) -> None:
    model = load_graph(_save(_GRAPHS["matmul"], tmp_path / "m.onnx"))
    quantize_weights(model, 4, FLOAT_ACTIVATIONS)
    ir.save(model, tmp_path / "exact.onnx")
    set_accuracy_level(model, 4)
    ir.save(model, tmp_path / "fast.onnx")
    exact, fast = _run(tmp_path / "exact.onnx"), _run(tmp_path / "fast.onnx")
    assert 1e-5 < np.abs(fast - exact).max() / np.abs(exact).max() < 0.02


@pytest.mark.parametrize("bits", [4, 8])
def test_a_number_is_off_by_half_a_step_at_most(bits: int) -> None:
    rows = (_RNG.standard_normal((5, 70)) * np.array([[1e-3], [1], [1e3], [0], [1e-38]])).astype(np.float32)
    numbers, scales = blocks.quantize_rows(rows, bits)
    middle = 1 << (bits - 1)
    back = ((numbers.astype(np.float32) - middle) * scales[..., None]).reshape(5, -1)[:, :70]
    step = np.repeat(np.abs(scales), 32, 1)[:, :70]
    # The one that is as far from zero on the other side has no integer of its own: one step.
    assert (np.abs(back - rows)[:4] <= step[:4] * 1.0001).all()
    assert (np.abs(back - rows)[:4] <= step[:4] * 0.5001).mean() > 0.95
    assert not back[3].any() and np.isfinite(back).all()


def test_a_weight_of_many_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into strips, by rows and by columns, it is the same."""
    weight = ir.tensor(_RNG.standard_normal((200, 70)).astype(np.float32), name="w")
    whole = {by_row: blocks.quantize_blocks(weight, 4, by_row=by_row) for by_row in (True, False)}
    monkeypatch.setattr(blocks, "_STRIP_BYTES", 10_000)
    assert len(list(blocks.strips(weight))) > 3
    for by_row, wanted in whole.items():
        found = blocks.quantize_blocks(weight, 4, by_row=by_row)
        assert np.array_equal(found.data, wanted.data) and np.array_equal(found.scales, wanted.scales)
        rounded = np.concatenate(list(blocks.dequantized_strips(weight, 4, by_row=by_row)))
        assert rounded.shape == (200, 70) and np.abs(rounded - weight.numpy()).max() < 0.7


def test_a_graph_without_weights_to_round_is_told_what_it_has(tmp_path: Path) -> None:
    sources = {
        "table": ("<table> (int64[n] x) => (float[n, 64] y) { y = Gather(table, x) }", (96, 64)),
        "kernel": ("<kernel> (float[n, 8, 9, 9] x) => (float[a, b, c, d] y) { y = Conv(x, kernel) }", (32, 8, 3, 3)),
    }
    for name, (body, shape) in sources.items():
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {body.removeprefix(f"<{name}> ")}')
        weight = _RNG.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
        onnx.save(model, tmp_path / f"{name}.onnx")
    target = tmp_path / "out.onnx"
    with pytest.raises(UsageError) as told:
        write_nf4([tmp_path / "table.onnx"], [target], frozenset())
    assert "table [96, 64]" in str(told.value) and "bnb4" in str(told.value) and "int4" in str(told.value.hint)
    assert write_weight_only([tmp_path / "table.onnx"], [target], 4)  # which has a form for tables
    for write in (write_nf4, lambda *given: write_weight_only(*given[:2], 8)):
        with pytest.raises(UsageError) as told:
            write([tmp_path / "kernel.onnx"], [target], frozenset())
        assert "kernel [32, 8, 3, 3]" in str(told.value) and "Conv" in str(told.value)
