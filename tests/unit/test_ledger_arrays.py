"""How the ledger of weights finds one weight in another: layouts, packed and scaled weights, quantized ones."""

import numpy as np
import pytest
from onnx import TensorProto

from onnxport.formats.graph_tensors import FileTensor
from onnxport.verification.ledger.arrays import (
    Named,
    packed_pieces,
    rows_of,
    scaled_by_channel,
    transform_between,
    weight_normed,
)
from onnxport.verification.ledger.prove import compare_bytes
from onnxport.verification.ledger.quantized import BlockNames, block_fault, column_fault


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_what_makes_one_weight_of_another() -> None:
    kernel = _random(3, 3, 4, 8)
    assert transform_between(kernel, kernel) == "as is"
    assert transform_between(kernel.transpose(3, 2, 0, 1), kernel) == "transposed 3 2 0 1"
    assert transform_between(kernel.reshape(9, 32), kernel) == "reshaped 9 32"
    assert transform_between(_random(5, 6).T[:, :, None], _random(5, 6)) == "transposed 1 0 and reshaped 6 5 1"
    heads = _random(16, 2, 4)  # of an attention in Keras: inputs, heads, features
    assert transform_between(heads.reshape(16, 8).T, heads) == "transposed 1 2 0 and reshaped 8 16"
    assert transform_between(-kernel, kernel) is None


def test_packed_and_scaled_weights() -> None:
    parts = [Named(name, _random(4, width) + number) for number, (name, width) in enumerate((("q", 3), ("k", 5)))]
    whole = np.concatenate([one.array for one in parts], 1)
    assert packed_pieces(whole, parts) == (1, ["q", "k"])
    whole[0, 0] += 1
    assert packed_pieces(whole, parts) is None
    kernel, factors = _random(8, 4, 3), np.linspace(0.5, 2, 8, dtype=np.float32)[:, None, None]
    assert scaled_by_channel(kernel * factors, kernel)
    changed = kernel * factors
    changed[2, 1, 1] *= 1.01
    assert not scaled_by_channel(changed, kernel)


def test_weight_norm() -> None:
    direction, lengths = Named("v", _random(5, 4, 6)), Named("g", np.linspace(0.5, 2, 6, dtype=np.float32)[:, None])
    unit = direction.array / np.sqrt((direction.array**2).sum((0, 1)))
    weight = (unit * lengths.array.reshape(-1)).transpose(2, 1, 0)[:, :, None]  # as a Conv of two axes has it
    assert weight_normed(weight, [lengths, direction]) == ["v", "g"]
    assert weight_normed(weight * np.float32(1.01), [lengths, direction]) is None
    changed = weight.copy()
    changed[2, 1, 0, 3] *= 1.01
    assert weight_normed(changed, [lengths, direction]) is None
    assert weight_normed(weight, [direction]) is None


def test_rows_in_another_order() -> None:
    kernel = Named("kernel", _random(3, 16))  # (inputs, 4 gates of 4 units)
    gates = kernel.array.T.reshape(4, 4, 3)[[0, 3, 1, 2]].reshape(1, 16, 3)
    assert rows_of(gates, [kernel]) == ["kernel"]
    changed = gates.copy()
    changed[0, 5, 2] += 1e-3
    assert rows_of(changed, [kernel]) is None


def _tensor(name: str, array: np.ndarray) -> FileTensor:
    kinds = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}
    return FileTensor(name, kinds[array.dtype.name], array.shape, None, values=array.tobytes())  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_int8_weights(axis: int | None) -> None:
    weight = _random(40, 24)
    largest = np.abs(weight).max() if axis is None else np.abs(weight).max(1 - axis, keepdims=True)
    scale = (largest / 63).astype(np.float32)
    integers = np.rint(weight / scale).astype(np.int8)
    scales = scale.reshape(()) if axis is None else scale.reshape(-1)  # a single one is a scalar
    base = _tensor("w", weight)

    def fault(data: np.ndarray, scales: np.ndarray) -> str | None:
        zeros = _tensor("w_zero_point", np.zeros(scales.shape, np.int8))
        return column_fault(BlockNames("w", _tensor("w_quantized", data), _tensor("w_scale", scales), zeros), base)[0]

    assert fault(integers, scales) is None
    changed = integers.copy()
    changed[17, 5] += -2 if changed[17, 5] > 0 else 2
    assert "[17, 5]" in str(fault(changed, scales))
    assert fault(integers, (scales * 1.1).astype(np.float32)) is not None
    assert fault(np.rint(weight / (scale * 60)).astype(np.int8), (scales * 60).astype(np.float32)) is not None


def test_int4_weights() -> None:
    weight = _random(6, 64)
    blocks = weight.reshape(6, 2, 32)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    scales = (extreme / -8).astype(np.float32)
    integers = np.clip(np.rint(blocks / scales[..., None]) + 8, 0, 15).astype(np.uint8)
    packed = (integers[..., ::2] | (integers[..., 1::2] << 4)).astype(np.uint8)
    base = _tensor("w", weight)

    def fault(data: np.ndarray, scales: np.ndarray = scales) -> str | None:
        return block_fault(BlockNames("w", _tensor("w.q4", data), _tensor("w.scales", scales), None, 4), base)[0]

    assert fault(packed) is None
    changed = packed.copy()
    changed[3, 1, 2] ^= 2
    assert "row 3" in str(fault(changed))
    assert fault(packed, scales * np.float32(1.3)) is not None


def test_streams_that_are_cut_differently() -> None:
    wanted = np.arange(100, dtype=np.float32)
    found = wanted.copy()
    found[[41, 77]] += 1
    raw = found.tobytes()
    blocks = [raw[:4], raw[4:200], raw[200:]]
    assert compare_bytes(blocks, [wanted.tobytes()], 4) == (2, 41)
    assert compare_bytes([raw[:100]], [raw], 4) == (75, 25)
    assert compare_bytes(blocks, [raw[:8], raw[8:]], 4) == (0, -1)
