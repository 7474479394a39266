"""Smooth activations with outliers, so that one scale of 8 bits serves all of their channels.

Xiao et al. 2022, "SmoothQuant", https://arxiv.org/abs/2211.10438, equation 4. A few channels of an activation x can be
a hundred times larger than the others, and then their scale leaves a few steps for the rest. Dividing a channel by s
and multiplying its row of the weight W by s changes no product:

    x W = (x / s) (s W),    s[k] = max |x[:, k]|^alpha / max |W[k, :]|^(1 - alpha)

s is rounded to powers of two, so that both sides are exact in floating point. A Mul before the products divides: most
activations are read by a residual too, so that the normalization before them cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
SMOOTHING = ".smoothing"  # ending of the name of 1 / s
_OUTLIER = 3.0  # times the median: channels beyond that are outliers
_SMALL = 16.0  # a channel that is smaller than the median by more may have been small by chance


@dataclass(frozen=True)
class Activation:
    """An activation that products with weights read.

    Attributes:
        value: the activation, (..., inputs).
        products: MatMul and Gemm that read it as their first input.
        weights: their weights, each once.
        scalable: nothing else reads these weights.
    """

    value: ir.Value
    products: tuple[ir.Node, ...]
    weights: tuple[ir.Value, ...]
    scalable: bool

    @property
    def name(self) -> str:
        """Its name in the graph."""
        return str(self.value.name)

    def rows(self) -> list[Array]:
        """The weights as (inputs, outputs)."""
        return [by_input(value.const_value.numpy(), self) for value in self.weights if value.const_value is not None]


def by_input(weight: Array, activation: Activation) -> Array:
    """The weight as (inputs, outputs), or such an array as the weight; all products of an activation read it alike."""
    return weight.T if _transposed(activation.products[0]) else weight


def find_activations(model: ir.Model) -> list[Activation]:
    """Activations that are multiplied by a matrix of float32 weights, in the order of the graph."""
    import onnx_ir as ir

    products: dict[tuple[str, bool], list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type not in ("MatMul", "Gemm") or node.domain or node.attributes.get_int("transA", 0):
            continue
        value, weight = node.inputs[0], node.inputs[1]
        if value is None or weight is None or value.const_value is not None or weight.const_value is None:
            continue
        if weight.const_value.dtype == ir.DataType.FLOAT and len(weight.const_value.shape) == 2:
            products.setdefault((str(value.name), _transposed(node)), []).append(node)
    return [_activation(nodes) for nodes in products.values()]


def _activation(nodes: Sequence[ir.Node]) -> Activation:
    value = nodes[0].inputs[0]
    assert value is not None
    weights = {str(one.name): one for node in nodes if (one := node.inputs[1]) is not None}
    alone = all(
        user in nodes and index == 1 for weight in weights.values() for user, index in weight.uses()
    ) and not any(weight.is_graph_output() for weight in weights.values())
    return Activation(value, tuple(nodes), tuple(weights.values()), alone)


def _transposed(node: ir.Node) -> bool:
    return bool(node.op_type == "Gemm" and node.attributes.get_int("transB", 0))


def has_outliers(largest: Array) -> bool:
    """Whether a channel is far larger than the others.

    Args:
        largest: (channels), largest absolute value of each.
    """
    return bool(largest.max(initial=0) > _OUTLIER * np.median(largest))


def smoothing_factors(largest: Array, weights: Sequence[Array], alpha: float) -> Array:
    """The powers of two by which channels are divided, float32 (channels); see the formula above.

    Args:
        largest: (channels), largest absolute value of each.
        weights: each (channels, outputs).
        alpha: 0 leaves outliers to the activation, 1 moves all of them to the weight.
    """
    rows = np.max([np.abs(weight).max(1) for weight in weights], axis=0).astype(np.float64)
    rows = np.maximum(rows, np.median(rows) / _SMALL + 1e-30)
    channels = np.maximum(largest.astype(np.float64), np.median(largest) / _SMALL + 1e-30)
    exponents = alpha * np.log2(channels) - (1 - alpha) * np.log2(rows)
    exponents -= exponents.mean()  # a factor of all channels changes nothing
    factors: Array = np.exp2(np.clip(np.round(exponents), -30, 30)).astype(np.float32)
    return factors


def smooth(model: ir.Model, factors: Mapping[str, Array]) -> None:
    """Divide activations by `factors` and multiply the rows of their weights by them, in place.

    Args:
        model: a float32 graph.
        factors: by the names of activations, powers of two, float32 (channels). Activations must be `scalable`.
    """
    import onnx_ir as ir

    for activation in find_activations(model):
        factor = factors.get(activation.name)
        if factor is None:
            continue
        for value in activation.weights:
            assert value.const_value is not None
            scaled = by_input(by_input(value.const_value.numpy(), activation) * factor[:, None], activation)
            value.const_value = ir.tensor(np.ascontiguousarray(scaled), name=value.name)
        tensor = ir.tensor((1 / factor).astype(np.float32), name=f"{activation.name}{SMOOTHING}")
        inverse = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        model.graph.register_initializer(inverse)
        node = ir.node("Mul", [activation.value, inverse], name=f"{activation.name}.smooth")
        (made,) = node.outputs
        made.name, made.type, made.shape = f"{activation.name}.smoothed", activation.value.type, activation.value.shape
        model.graph.insert_before(activation.products[0], node)
        for product in activation.products:
            product.replace_input_with(0, made)
