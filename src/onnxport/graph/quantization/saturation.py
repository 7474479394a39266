"""Find integer products that overflow on some processors, from a bound on their weights.

ONNX Runtime multiplies unsigned activations a (0 to 255) by signed weights w (-128 to 127). On x86 processors with
SSE4.1, AVX2 or AVX-512 but without VNNI it uses the instruction vpmaddubsw, which adds the products of two neighbouring
rows of the weight in 16 bits:

    a[2k] * w[2k, n] + a[2k+1] * w[2k+1, n]

A sum above 32767 or below -32768 saturates there, without an error. Processors with VNNI or AMX, ARM and WebAssembly
add in 32 bits, so the results of the same graph differ.

The sum is largest where a is 255 for all weights of one sign and 0 for the others. It fits for all activations if and
only if, in every pair, the weights of one sign add up to at most 128: 255 * 128 = 32640, 255 * 129 = 32895.

Sources, in onnxruntime/core/mlas/lib: x86_64/QgemmU8S8KernelAvx2.S and x86_64/QgemvU8S8KernelAvx2.S (rows in groups of
four, from row 0; pairs within them), platform.cpp (kernel of each processor), qgemm.h (signed activations use other
kernels, which add in 32 bits).

- Convolutions: rows are the positions of the kernel, and the channels within a position. A depthwise convolution has
  its own kernel, which adds in 32 bits.
- ConvInteger multiplies with weight and input exchanged, which none of these kernels do.
- MatMulNBits clears every second value before it adds (sqnbitgemm_kernel_avx2_int8_blklen64.h); with 4 bits its sums
  are small.

These three were also observed on a processor with AVX2 and without VNNI; tests/unit/test_saturation.py runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import VerificationError

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST_ACTIVATION = 255
LARGEST_SUM = 32767
# Largest sum of weights of one sign in a pair.
LARGEST_PAIR = LARGEST_SUM // LARGEST_ACTIVATION
_UNKNOWN_PAIR = 2 * 128  # of signed weights that are computed at run time
_ROWS = 4096  # even; number of rows that are converted to a wider type at a time


@dataclass(frozen=True)
class Saturation:
    """A product whose 16-bit sums can overflow.

    Attributes:
        node: name of the node.
        operator: its operator.
        weight: name of the signed weights.
        pair: largest sum of weights of one sign in a pair of rows; above `LARGEST_PAIR`.
        columns: number of outputs with such a pair; 0 if the weights are computed at run time.
    """

    node: str
    operator: str
    weight: str
    pair: int
    columns: int

    @property
    def largest_sum(self) -> int:
        """The largest value that the 16-bit sum would have to hold."""
        return self.pair * LARGEST_ACTIVATION


@dataclass(frozen=True)
class _Product:
    """Indices of the inputs of an operator.

    Attributes:
        weights: weights, signed or unsigned; more than one in a recurrent layer.
        activation: None if the operator quantizes its input itself, to unsigned integers.
        activation_zero: zero point of the activation; its type is the type of the activation.
        weight_zero: zero point of the weight; its type is the type of the weight.
    """

    weights: tuple[int, ...]
    activation: int | None = None
    activation_zero: int | None = None
    weight_zero: int | None = None


# Operators with integer inputs, by name only: ONNX Runtime has some of them in two domains.
_PRODUCTS = {
    "MatMulInteger": _Product((1,), 0, 2, 3),
    "QLinearMatMul": _Product((3,), 0, 2, 5),
    "QLinearConv": _Product((3,), 0, 2, 5),
    "QGemm": _Product((3,), 0, 2, 5),
    "MatMulIntegerToFloat": _Product((1,), 0, 4, 5),
    "QAttention": _Product((1,), 0, 6, 7),
    "DynamicQuantizeMatMul": _Product((1,), weight_zero=3),
    "DynamicQuantizeLSTM": _Product((1, 2)),
}
# Float operators that ONNX Runtime converts to those above if both inputs come from DequantizeLinear.
_DEQUANTIZED = ("MatMul", "Gemm", "Conv")


def pair_sums(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the largest sum of weights of one sign in a pair of neighbouring rows, for every column.

    Args:
        weights: [..., K, N], of any number type; rows 2k and 2k + 1 are a pair, the last row of an odd number is alone.

    Returns:
        [N], int64 for integers and float64 for floats; never negative.
    """
    wide = np.int64 if weights.dtype.kind in "iu" else np.float64
    largest = np.zeros(weights.shape[-1], wide)
    leading = tuple(range(weights.ndim - 1))
    for start in range(0, weights.shape[-2], _ROWS):
        part = weights[..., start : start + _ROWS, :].astype(np.int32 if wide is np.int64 else wide)
        first, second = part[..., 0::2, :], part[..., 1::2, :]
        for sign in (1, -1):
            sums = np.maximum(sign * first, 0)
            sums[..., : second.shape[-2], :] += np.maximum(sign * second, 0)
            largest = np.maximum(largest, sums.max(axis=leading, initial=0))
    return largest


def find_saturations(model: ir.Model) -> list[Saturation]:
    """Return the products of a graph and its subgraphs that can overflow on some processors, worst first.

    Args:
        model: the graph.
    """
    found = (_bound(node, weight) for node, weight in _products(model))
    return sorted((saturation for saturation in found if saturation is not None), key=lambda worst: -worst.pair)


def require_exact_sums(file: Path, hint: str, outcome: str = "") -> int:
    """Refuse a graph file with an integer product that can overflow on some processors, also if not on this one.

    Args:
        file: any graph; graphs without integer products pass.
        hint: the command to type next.
        outcome: what happened to the output, as a sentence.

    Returns:
        The number of its products that could overflow with other weights.

    Raises:
        VerificationError: there is such a product; the message names the worst one and its largest sum.
    """
    from onnxport.graph.quantization.weight_only import load_graph

    model = load_graph(file)
    found = find_saturations(model)
    if not found:
        return sum(1 for _ in _products(model))
    worst = found[0]
    count = f" (and in {worst.columns - 1} more)" if worst.columns > 1 else ""
    raise VerificationError(
        f"{file.name} gives wrong results on x86 processors without VNNI: {len(found)} of its integer products can "
        f"overflow their 16-bit sums. The worst is {worst.operator} {worst.node!r}: two neighbouring weights in a "
        f"column of {worst.weight!r}{count} can give {worst.largest_sum}, and the largest 16-bit sum is {LARGEST_SUM}. "
        f"{outcome}".rstrip(),
        hint=hint,
    )


def added_rows(filters: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the weights of a convolution as [K, N] in the order in which they are added.

    Args:
        filters: (outputs, channels, positions of the kernel...).
    """
    outputs, channels = filters.shape[:2]
    return filters.reshape(outputs, channels, -1).transpose(2, 1, 0).reshape(-1, outputs)


def _products(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Yield nodes that multiply unsigned activations by signed weights, with the weights."""
    for node in model.graph.all_nodes():
        for weight in _signed_weights(node):
            yield node, weight


def _signed_weights(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the inputs of a node that are signed 8-bit weights of products with unsigned activations."""
    if node.op_type in _DEQUANTIZED:
        yield from _dequantized_weights(node)
        return
    product = _PRODUCTS.get(node.op_type)
    if product is None:
        return
    if product.activation is not None:
        activation, zero = (_input(node, index) for index in (product.activation, product.activation_zero))
        if _is_signed(activation) or _is_signed(zero):
            return
    for index in product.weights:
        weight, zero = _input(node, index), _input(node, product.weight_zero)
        if weight is not None and (_is_signed(weight) or _is_signed(zero)):
            yield weight


def _dequantized_weights(node: ir.Node) -> Iterator[ir.Value]:
    values = [_input(node, index) for index in (0, 1)]
    producers = [value.producer() if value is not None else None for value in values]
    # Weights with a scale per block become MatMulNBits.
    if any(producer is None or producer.op_type != "DequantizeLinear" for producer in producers):
        return
    activation, weight = (_input(producer, 0) for producer in producers if producer is not None)
    zeros = [_input(producer, 2) for producer in producers if producer is not None]
    blocked = any(producer.attributes.get_int("block_size", 0) for producer in producers if producer is not None)
    if weight is None or blocked or _is_signed(activation) or _is_signed(zeros[0]):
        return
    if _is_signed(weight) or _is_signed(zeros[1]):
        yield weight


def _input(node: ir.Node, index: int | None) -> ir.Value | None:
    return node.inputs[index] if index is not None and index < len(node.inputs) else None


def _is_signed(value: ir.Value | None) -> bool:
    """Return whether the type is known to be int8. Unknown counts as unsigned, the worse case for an activation."""
    if value is None:
        return False
    tensor = _constant(value)
    dtype = tensor.dtype if tensor is not None else value.dtype
    return dtype is not None and dtype.name == "INT8"


def _constant(value: ir.Value) -> Any:
    import onnx_ir as ir

    return ir.convenience.get_const_tensor(value)


def _bound(node: ir.Node, weight: ir.Value) -> Saturation | None:
    name = node.name or (node.outputs[0].name or "")
    tensor = _constant(weight)
    if tensor is None:
        return Saturation(name, node.op_type, weight.name or "", _UNKNOWN_PAIR, 0)
    rows = _rows(node, tensor.numpy())
    if rows is None:
        return None
    sums = pair_sums(rows)
    columns = int((sums > LARGEST_PAIR).sum())
    return Saturation(name, node.op_type, weight.name or "", int(sums.max()), columns) if columns else None


def _rows(node: ir.Node, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return the weights as [..., K, N] in the order in which they are added; None if they are added in 32 bits."""
    if node.op_type in ("QLinearConv", "Conv"):
        outputs, channels = weights.shape[:2]
        if channels == 1 and outputs == node.attributes.get_int("group", 1):
            return None
        return added_rows(weights)
    if weights.ndim == 1:
        return weights[:, None]
    if node.op_type in ("QGemm", "Gemm") and node.attributes.get_int("transB", 0):
        return weights.T
    return weights
