"""The bound of 16-bit sums: against sums of all activations, for every operator, and against what runs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport import verify
from onnxport.errors import VerificationError
from onnxport.graph.quantization.saturation import LARGEST_PAIR, find_saturations, pair_sums, require_exact_sums
from tests.unit.integer_products import (
    MICROSOFT,
    Array,
    exact_product,
    graph_of,
    integer_matmul,
    quantized_conv,
    run,
    saturating_product,
)

_RNG = np.random.default_rng(0)
_U8, _S8, _F32, _I32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT, TensorProto.INT32
_LARGE = np.full((8, 12), 127, np.int8)


def found(model: onnx.ModelProto) -> list[int]:
    return [saturation.pair for saturation in find_saturations(ir.from_proto(model))]


def with_shape(model: onnx.ModelProto) -> onnx.ModelProto:
    """Its input has 8 columns."""
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", _U8, ["batch_size", 8]))
    return model


def one_pair(first: int, second: int, rows: int = 8) -> Array:
    """Weights that are zero but for two rows."""
    weights = np.zeros((rows, 3), np.int8)
    weights[[first, second]] = 127
    return weights


@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7])
def test_the_bound_is_the_largest_sum_that_any_activations_give(rows: int) -> None:
    for _ in range(20):
        weights = _RNG.integers(-128, 128, (rows, 4)).astype(np.int8)
        # A sum is linear in each activation, so that it is largest at an end of its range.
        corners = np.array(list(itertools.product((0, 255), repeat=rows)), np.int64)
        padded = np.pad(weights.astype(np.int64), ((0, rows % 2), (0, 0)))
        activations = np.pad(corners, ((0, 0), (0, rows % 2)))
        pairs = activations[:, 0::2, None] * padded[0::2] + activations[:, 1::2, None] * padded[1::2]
        np.testing.assert_array_equal(pair_sums(weights) * 255, np.abs(pairs).max(axis=(0, 1)))


@pytest.mark.parametrize(("pair", "exact"), [((64, 64), True), ((65, 64), False), ((127, 1), True), ((127, 2), False),
                                             ((-64, -64), True), ((-65, -64), False), ((127, -128), True)])  # fmt: skip
def test_what_is_within_the_bound_is_exact_and_what_is_not_is_cut_off(pair: tuple[int, int], exact: bool) -> None:
    weights = np.array(pair, np.int8)[:, None]
    assert bool(pair_sums(weights).max() <= LARGEST_PAIR) is exact
    activations = np.array(list(itertools.product((0, 1, 127, 254, 255), repeat=2)), np.uint8)
    same = np.array_equal(saturating_product(activations, weights), exact_product(activations, weights))
    assert same is exact


def test_floats_batches_and_many_rows() -> None:
    weights = _RNG.standard_normal((2, 9001, 5)).astype(np.float32)
    padded = np.pad(weights, ((0, 0), (0, 1), (0, 0))).reshape(2, -1, 2, 5)
    wanted = np.maximum(np.maximum(padded, 0).sum(2).max((0, 1)), np.maximum(-padded, 0).sum(2).max((0, 1)))
    np.testing.assert_allclose(pair_sums(weights), wanted, rtol=1e-6)


@pytest.mark.parametrize(("rows", "pair"), [((0, 1), 254), ((1, 2), 127), ((2, 3), 254), ((3, 4), 127), ((6, 7), 254)])
@pytest.mark.parametrize("calls", [1, 5])
def test_rows_are_paired_as_onnxruntime_pairs_them(rows: tuple[int, int], pair: int, calls: int) -> None:
    weights = one_pair(*rows)
    model = integer_matmul(weights)
    assert found(model) == ([pair] if pair > LARGEST_PAIR else [])
    activations = np.full((calls, 8), 255, np.uint8)
    result = run(model, x=activations)
    # Which of them depends on the processor; nothing else may come out.
    exact = np.array_equal(result, exact_product(activations, weights))
    assert exact or np.array_equal(result, saturating_product(activations, weights))
    assert exact or pair > LARGEST_PAIR


# (channel and place of two weights, whether they are neighbours) with 7 channels
@pytest.mark.parametrize(("first", "second", "neighbours"), [
    ((0, 0), (1, 0), True), ((1, 0), (2, 0), False), ((0, 0), (0, 1), False), ((6, 0), (0, 1), True),
    ((0, 1), (1, 1), False), ((1, 1), (2, 1), True),
])  # fmt: skip
@pytest.mark.parametrize("outputs", [3, 16])
def test_a_convolution_adds_channels_within_places(
    first: tuple[int, int], second: tuple[int, int], neighbours: bool, outputs: int
) -> None:
    weights = np.zeros((outputs, 7, 1, 3), np.int8)
    for channel, place in (first, second):
        weights[:, channel, 0, place] = 127
    model = quantized_conv(weights)
    assert found(model) == ([254] if neighbours else [])
    result = run(model, x=np.full((1, 7, 1, 5), 255, np.uint8))
    assert neighbours or (result == 250).all()


def test_a_depthwise_convolution_is_exact() -> None:
    model = quantized_conv(np.full((8, 1, 3, 3), 127, np.int8), group=8)
    assert found(model) == []
    assert (run(model, x=np.full((1, 8, 5, 5), 255, np.uint8)) == 250).all()


def test_other_groups_are_not() -> None:
    assert found(quantized_conv(np.full((16, 2, 3, 3), 127, np.int8), group=4)) == [254]
    assert found(quantized_conv(np.full((16, 1, 3, 3), 127, np.int8), group=8)) == [254]


def test_an_integer_convolution_is_exact() -> None:
    weights = np.full((16, 8, 3, 3), 127, np.int8)
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    model = graph_of(node, {"w": weights}, {"x": _U8}, _I32)
    assert found(model) == []
    try:
        result = run(model, x=np.full((1, 8, 5, 5), 255, np.uint8))
    except Exception as error:  # ONNX Runtime has had signed weights here since 1.2x
        pytest.skip(str(error).splitlines()[0])
    assert (result == 255 * 127 * 72).all()


def test_signed_activations_and_unsigned_weights_are_exact() -> None:
    signed = integer_matmul(_LARGE, _S8)
    assert found(signed) == []
    assert (run(signed, x=np.full((3, 8), 127, np.int8)) == 127 * 127 * 8).all()
    unsigned = integer_matmul(np.full((8, 12), 255, np.uint8))
    assert found(unsigned) == []
    assert (run(unsigned, x=np.full((3, 8), 255, np.uint8)) == 255 * 255 * 8).all()


_SCALES = {"s": np.float32(1), "u0": np.uint8(0), "s0": np.int8(0)}
# operator, domain, inputs, attributes, weights
_OPERATORS = {
    "QLinearMatMul": ("", ["x", "s", "u0", "w", "s", "s0", "s", "u0"], {}, {"w": _LARGE}),
    "QGemm": (MICROSOFT, ["x", "s", "u0", "w", "s", "s0"], {"transB": 1}, {"w": _LARGE.T.copy()}),
    "MatMulIntegerToFloat": (MICROSOFT, ["x", "w", "s", "s", "u0", "s0"], {}, {"w": _LARGE}),
    "DynamicQuantizeMatMul": (MICROSOFT, ["f", "w", "s", "s0"], {}, {"w": _LARGE}),
    "QAttention": (MICROSOFT, ["x", "w", "bias", "s", "s", "", "u0", "s0"], {"num_heads": 2}, {"w": _LARGE}),
    "DynamicQuantizeLSTM": (
        MICROSOFT, ["f", "w", "r", "", "", "", "", "", "s", "s0", "s", "s0"], {"hidden_size": 3},
        {"w": _LARGE[None], "r": np.full((1, 3, 12), 127, np.int8)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("operator", _OPERATORS)
def test_every_operator_with_integer_inputs_is_bounded(operator: str) -> None:
    domain, inputs, attributes, weights = _OPERATORS[operator]
    kind = {"f": _F32} if "f" in inputs else {"x": _U8}

    def model(change: int, dtype: type = np.int8) -> onnx.ModelProto:
        node = helper.make_node(operator, inputs, ["y"], name="product", domain=domain, **attributes)
        changed = {name: np.right_shift(value, change).astype(dtype) for name, value in weights.items()}
        zero = {"s0": dtype(0)}
        return graph_of(node, {**_SCALES, "bias": np.zeros(12, np.float32), **changed, **zero}, kind, _F32)

    assert found(model(0)) == [254] * len(weights)
    assert found(model(1)) == []  # 63 + 63
    assert found(model(0, np.uint8)) == []


def test_weights_that_are_computed_count_as_the_largest() -> None:
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    assert found(graph_of(node, {}, {"x": _U8, "w": _S8}, _I32)) == [256]
    assert found(graph_of(node, {}, {"x": _U8, "w": _U8}, _I32)) == []


@pytest.mark.parametrize(("dtype", "pairs"), [(np.int8, [254]), (np.uint8, [])])
def test_a_product_between_dequantized_inputs_is_bounded(dtype: type, pairs: list[int]) -> None:
    tensors = {"w": _LARGE.astype(dtype), "s": np.float32(1), "u0": np.uint8(0), "w0": dtype(0)}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["f", "s", "u0"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "u0"], ["a"]),
            helper.make_node("DequantizeLinear", ["w", "s", "w0"], ["b"]),
            helper.make_node("MatMul", ["a", "b"], ["y"], name="product"),
        ],
        "product", [helper.make_tensor_value_info("f", _F32, None)], [helper.make_tensor_value_info("y", _F32, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    assert found(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)) == pairs


def test_a_graph_that_could_be_wrong_elsewhere_fails_here_too(tmp_path: Path) -> None:
    weights = one_pair(2, 3)
    weights[3, 1:] = 0  # one column is too large
    file = tmp_path / "model-quantized.onnx"
    onnx.save(with_shape(integer_matmul(weights)), file)
    with pytest.raises(VerificationError) as caught:
        require_exact_sums(file, "Type this.", "Nothing was written.")
    assert str(caught.value) == (
        "model-quantized.onnx gives wrong results on x86 processors without VNNI: 1 of its integer products can "
        "overflow their 16-bit sums. The worst is MatMulInteger 'product': two neighbouring weights in a column of 'w' "
        "can give 64770, and the largest 16-bit sum is 32767. Nothing was written.\nType this."
    )
    with pytest.raises(VerificationError, match=r"onnxport quantize GRAPH\.onnx"):
        verify(file)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(VerificationError, match=r"onnxport quantize \S+model\.onnx$"):
        verify(file)
    onnx.save(with_shape(integer_matmul(one_pair(1, 2))), file)
    assert verify(file).notes[0] == "the sums of 1 integer products fit on every processor"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_weights_in_blocks_are_exact_at_their_ends(bits: int, block: int, rows: int) -> None:
    inputs, outputs = 256, 20
    highest = (1 << bits) - 1
    patterns = [np.full(inputs, highest), np.zeros(inputs), np.where(np.arange(inputs) % 4 < 2, highest, 0)]
    for pattern, sign in itertools.product(patterns, (1, -1)):
        weights = np.tile(pattern.astype(np.uint8), (outputs, 1)).reshape(outputs, -1, block)
        packed = weights if bits == 8 else weights[..., 0::2] | weights[..., 1::2] << 4
        node = helper.make_node(
            "MatMulNBits", ["x", "w", "s"], ["y"], domain=MICROSOFT, K=inputs, N=outputs, bits=bits, block_size=block,
            accuracy_level=4,
        )  # fmt: skip
        scales = np.full((outputs, inputs // block), 0.01, np.float32)
        centred = pattern - (1 << bits - 1)
        x = np.tile(np.where(centred < 0, -sign, sign).astype(np.float32), (rows, 1))
        result = run(graph_of(node, {"w": packed, "s": scales}, {"x": _F32}, _F32), x=x)
        np.testing.assert_allclose(result, np.full((rows, outputs), 0.01 * (x[0] * centred).sum()), rtol=1e-2)
