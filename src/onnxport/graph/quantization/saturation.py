"""Which integer products of a graph can be wrong on some processors: a bound from their weights alone.

ONNX Runtime multiplies unsigned activations a (0 to 255) by signed weights w (-128 to 127). On x86 processors with
SSE4.1, AVX2 or AVX-512 but without VNNI it does that with the instruction vpmaddubsw, which adds the products of two
neighbouring rows of the weight in 16 bits:

    a[2k] * w[2k, n] + a[2k+1] * w[2k+1, n]

A sum above 32767 or below -32768 is cut off there, without any sign of it. Processors with VNNI or AMX, ARM and
WebAssembly add in 32 bits, so the same graph gives two answers.

The sum is largest where a is 255 at each weight of one sign and 0 at the other. It fits for all activations if and
only if, in every pair, the weights of one sign add up to no more than 128: 255 * 128 = 32640, 255 * 129 = 32895.

Sources, in onnxruntime/core/mlas/lib: x86_64/QgemmU8S8KernelAvx2.S and x86_64/QgemvU8S8KernelAvx2.S (rows in groups of
four, from row 0; pairs within them), platform.cpp (which processor takes which kernel), qgemm.h (signed activations
take other kernels, which add in 32 bits). Of convolutions the rows are the places of the kernel, and within a place the
channels; a depthwise convolution has a kernel of its own that adds in 32 bits. ConvInteger multiplies with weight and
input exchanged, which none of these kernels do. MatMulNBits clears every second number before it adds
(sqnbitgemm_kernel_avx2_int8_blklen64.h), and with 4 bits its sums are small. What is said here of convolutions,
ConvInteger and MatMulNBits was also seen on a processor with AVX2 and without VNNI; tests/unit/test_saturation.py runs
all of it.
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
# What the weights of one sign in a pair may add up to.
LARGEST_PAIR = LARGEST_SUM // LARGEST_ACTIVATION
_UNKNOWN_PAIR = 2 * 128  # of signed weights that only a run would show
_ROWS = 4096  # even; that many rows are held in a wider type at a time


@dataclass(frozen=True)
class Saturation:
    """A product whose 16-bit sums do not hold all that its weights can give.

    Attributes:
        node, operator: of the graph.
        weight: name of the signed weights.
        pair: the most that weights of one sign add up to in a pair of rows; above `LARGEST_PAIR`.
        columns: how many of the outputs have such a pair; 0 where the weights are computed at run time.
    """

    node: str
    operator: str
    weight: str
    pair: int
    columns: int

    @property
    def largest_sum(self) -> int:
        """What the 16-bit sum would have to hold."""
        return self.pair * LARGEST_ACTIVATION


@dataclass(frozen=True)
class _Product:
    """Places of inputs.

    Attributes:
        weights: signed or not; more than one in a recurrent layer.
        activation: None where the operator quantizes its input itself, to unsigned numbers.
        activation_zero, weight_zero: of zero points, whose types tell signed from unsigned.
    """

    weights: tuple[int, ...]
    activation: int | None = None
    activation_zero: int | None = None
    weight_zero: int | None = None


# Operators with integer inputs; by name alone, because ONNX Runtime has some of them in two domains.
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
# Operators on floats, which ONNX Runtime turns into those above where both inputs come from DequantizeLinear.
_DEQUANTIZED = ("MatMul", "Gemm", "Conv")


def pair_sums(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The most that weights of one sign add up to in a pair of neighbouring rows, for every column.

    Args:
        weights: [..., K, N], of any number type; rows 2k and 2k + 1 are a pair, a last odd one is alone.

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
    """The products of a graph and of its subgraphs that can be wrong on some processors, the worst first."""
    found = (_bound(node, weight) for node, weight in _products(model))
    return sorted((saturation for saturation in found if saturation is not None), key=lambda worst: -worst.pair)


def require_exact_sums(file: Path, hint: str, outcome: str = "") -> int:
    """Refuse a graph file with an integer product that is wrong on some processors, whatever it computes on this one.

    Args:
        file: any graph; one without integer products passes.
        hint: what to type next.
        outcome: what became of the output, as a sentence.

    Returns:
        How many products it has whose sums could be too large with other weights.

    Raises:
        VerificationError: it has one; the message names the worst, and how far its sums go.
    """
    from onnxport.graph.quantization.weight_only import load_graph

    model = load_graph(file)
    found = find_saturations(model)
    if not found:
        return sum(1 for _ in _products(model))
    worst = found[0]
    count = f" (and so in {worst.columns} columns)" if worst.columns > 1 else ""
    raise VerificationError(
        f"{file.name} is right on some processors only: {len(found)} of its integer products can be too large for the "
        f"16 bits in which x86 processors without VNNI add them. The worst is {worst.operator} {worst.node!r}: two "
        f"neighbouring weights in a column of {worst.weight!r}{count} can give {worst.largest_sum}, and {LARGEST_SUM} "
        f"is the most that fits. {outcome}".rstrip(),
        hint=hint,
    )


def _products(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Nodes that multiply unsigned activations by signed weights, with the weights."""
    for node in model.graph.all_nodes():
        for weight in _signed_weights(node):
            yield node, weight


def _signed_weights(node: ir.Node) -> Iterator[ir.Value]:
    """The inputs of a node that are signed 8-bit weights and meet unsigned activations."""
    if node.op_type in _DEQUANTIZED:
        yield from _dequantized_weights(node)
        return
    product = _PRODUCTS.get(node.op_type)
    if product is None:
        return
    if product.activation is not None:
        activation, zero = (_input(node, place) for place in (product.activation, product.activation_zero))
        if _is_signed(activation) or _is_signed(zero):
            return
    for place in product.weights:
        weight, zero = _input(node, place), _input(node, product.weight_zero)
        if weight is not None and (_is_signed(weight) or _is_signed(zero)):
            yield weight


def _dequantized_weights(node: ir.Node) -> Iterator[ir.Value]:
    made = [_input(node, place) for place in (0, 1)]
    both = [value.producer() if value is not None else None for value in made]
    # Numbers with a scale for each block become MatMulNBits.
    if any(maker is None or maker.op_type != "DequantizeLinear" for maker in both):
        return
    activation, weight = (_input(maker, 0) for maker in both if maker is not None)
    zeros = [_input(maker, 2) for maker in both if maker is not None]
    blocked = any(maker.attributes.get_int("block_size", 0) for maker in both if maker is not None)
    if weight is None or blocked or _is_signed(activation) or _is_signed(zeros[0]):
        return
    if _is_signed(weight) or _is_signed(zeros[1]):
        yield weight


def _input(node: ir.Node, place: int | None) -> ir.Value | None:
    return node.inputs[place] if place is not None and place < len(node.inputs) else None


def _is_signed(value: ir.Value | None) -> bool:
    """Whether it is known to be int8. What is not known counts as unsigned: as an activation that is the worse."""
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
    """The weights as [..., K, N] in the order in which they are added; None where they are added in 32 bits."""
    if node.op_type in ("QLinearConv", "Conv"):
        outputs, channels = weights.shape[:2]
        if channels == 1 and outputs == node.attributes.get_int("group", 1):
            return None
        # [M, C, places] to [places * C, M]
        return weights.reshape(outputs, channels, -1).transpose(2, 1, 0).reshape(-1, outputs)
    if weights.ndim == 1:
        return weights[:, None]
    if node.op_type in ("QGemm", "Gemm") and node.attributes.get_int("transB", 0):
        return weights.T
    return weights
