"""Weights of 4 bits as bitsandbytes stores them (nf4), for `com.microsoft::MatMulBnb4`.

The rows of a weight, one for each output, follow one another; 64 numbers share a scale, which is the largest of them
without its sign. Each number becomes the nearest of 16 levels: quantiles of a normal distribution, from Dettmers et
al., QLoRA, appendix E. Two levels share a byte, the first in the high half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.graph.quantization.weight_only import QuantizableWeight

BLOCK = 64
DATA, SCALES = ".nf4", ".absmax"  # endings of the names of a weight's tensors
_NF4 = 1  # `quant_type` of MatMulBnb4
LEVELS = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)  # fmt: skip


def use_nf4(model: ir.Model) -> int:
    """Replace the weights of products by levels, in place; they are computed when the graph is written.

    Tables stay float32, also where they are the output layer.

    Args:
        model: a float32 graph.

    Returns:
        The number of weights.
    """
    from onnxport.graph.quantization.weight_only import DOMAIN, add_initializer, remove_weight, replace_node

    found = _weights(model)
    for weight in found:
        blocks = _Levels(weight)
        data, scales = (add_initializer(model, tensor) for tensor in (blocks.data, blocks.scales))
        for user in weight.users:
            replace_node(model, user, _product(user, blocks, data, scales))
        remove_weight(model, weight.value)
    if found:
        model.opset_imports[DOMAIN] = 1
    return len(found)


def use_nf4_values(model: ir.Model) -> None:
    """Give the weights the values that their levels stand for, in place; operators do not change.

    Args:
        model: a float32 graph.
    """
    import onnx_ir as ir

    for weight in _weights(model):
        tensor = cast("ir.TensorProtocol", weight.value.const_value)
        levels = _Levels(weight)
        values = dequantize(levels.values("data"), levels.values("scales"), (levels.outputs, levels.inputs))
        own = np.ascontiguousarray(values if weight.by_row else values.T)
        weight.value.const_value = ir.tensor(own, name=tensor.name)


def dequantize(
    data: np.ndarray[Any, Any], scales: np.ndarray[Any, Any], shape: tuple[int, int]
) -> np.ndarray[Any, Any]:
    """The numbers that levels stand for.

    Args:
        data: uint8 (numbers / 2).
        scales: float32 (numbers / 64).
        shape: (outputs, inputs).
    """
    size = shape[0] * shape[1]
    numbers: np.ndarray[Any, Any] = LEVELS[unpacked(data, size)] * np.repeat(scales, BLOCK)[:size]
    return numbers.reshape(shape)


def unpacked(data: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """The number of the level of each of `size` numbers."""
    return np.stack([data >> 4, data & 15], -1).reshape(-1)[:size]


class _Levels:
    """A weight in levels; `data` and `scales` are computed on demand, by ONNX Runtime."""

    def __init__(self, weight: QuantizableWeight) -> None:
        import onnx_ir as ir

        self._weight = weight
        self.tensor = cast("ir.TensorProtocol", weight.value.const_value)
        rows, columns = (int(size) for size in self.tensor.shape)
        self.outputs, self.inputs = (rows, columns) if weight.by_row else (columns, rows)
        size = self.outputs * self.inputs
        self._known_scales: np.ndarray[Any, Any] | None = None  # of the data that was computed before
        self.data = self._lazy("data", DATA, ir.DataType.UINT8, -(-size // 2))
        self.scales = self._lazy("scales", SCALES, ir.DataType.FLOAT, -(-size // BLOCK))

    def values(self, which: str) -> np.ndarray[Any, Any]:
        """`data` or `scales`; the scales come out of the same computation as the data, and are small."""
        if which == "scales" and self._known_scales is not None:
            return self._known_scales
        import onnx
        from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

        from onnxport.graph.quantization.blocks import strips

        quantizer = MatMulBnb4Quantizer(onnx.ModelProto(), MatMulBnb4Quantizer.NF4, BLOCK)  # of no graph: arrays only
        weights = np.concatenate([strip for _, strip in strips(self.tensor)])  # onnx reads no linked files
        data, scales = quantizer.bnb4_block_quant(weights.T if self._weight.by_row else weights)
        self._known_scales = scales
        return cast("np.ndarray[Any, Any]", data if which == "data" else scales)

    def _lazy(self, which: str, ending: str, dtype: ir.DataType, size: int) -> ir.TensorProtocol:
        import onnx_ir as ir

        name = f"{self._weight.value.name}{ending}"
        return ir.LazyTensor(
            lambda: ir.Tensor(self.values(which), name=name), dtype=dtype, shape=ir.Shape([size]), name=name
        )


def _weights(model: ir.Model) -> list[QuantizableWeight]:
    from onnxport.graph.quantization.weight_only import find_weights

    return [one for one in find_weights(model) if all(user.op_type != "Gather" for user in one.users)]


def _product(node: ir.Node, levels: _Levels, data: ir.Value, scales: ir.Value) -> list[ir.Node]:
    """A MatMul or a Gemm with the levels; the last node gives its output."""
    import onnx_ir as ir

    name = node.name or node.outputs[0].name
    attributes = {"K": levels.inputs, "N": levels.outputs, "block_size": BLOCK, "quant_type": _NF4}
    made = ir.node("MatMulBnb4", [node.inputs[0], data, scales], attributes, domain="com.microsoft", name=node.name)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return [made]
    product = made.outputs[0]
    product.name, product.shape, product.type = f"{name}.product", node.outputs[0].shape, node.outputs[0].type
    return [made, ir.node("Add", [product, bias], name=f"{name}.bias")]
