"""Write a float16 graph: weights and computation in float16, inputs and outputs in float32.

float16 holds numbers up to 65504 and has 11 bits. What does not fit stays float32, with casts at its borders
(`value_ranges` measures it): nodes that read or write large values, and nodes with constants that float16 cannot hold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

# A quarter of the largest float16: other inputs may give larger values than those that were measured.
SAFE = 65504 / 4
# Masks add the lowest float32. float16 has no such number; a score plus this one is finite, and its exponential is 0.
_MASKED = 3e4
_SMALLEST = 2.0**-14  # below it float16 loses bits
_MOST_CONSTANT = 64  # elements of a constant that is a number of the code and no weight
# Operators without float16 kernels in many run times, as onnxruntime.transformers.float16 lists them, and those that
# sum or whose result depends on few bits.
_NO_HALF = frozenset({
    "Range", "CumSum", "TopK", "NonMaxSuppression", "RoiAlign", "Resize", "Upsample", "Min", "Max", "ArgMax", "ArgMin",
    "If", "Loop", "Scan", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "RandomNormalLike",
    "RandomUniformLike", "RandomNormal", "RandomUniform", "Multinomial", "Bernoulli", "EyeLike", "STFT", "DFT",
    "MelWeightMatrix", "BitCast",
})  # fmt: skip
SENSITIVE = frozenset({
    "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "GroupNormalization", "InstanceNormalization",
    "BatchNormalization", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Pow", "Sqrt", "Reciprocal", "Exp",
    "Log", "Div", "Sin", "Cos",
})  # fmt: skip


@dataclass(frozen=True)
class Halved:
    """What became of a graph.

    Attributes:
        kept: operator -> number of nodes that stay float32.
        halved: number of nodes that compute in float16.
    """

    kept: dict[str, int]
    halved: int


def use_half(model: ir.Model, ranges: Mapping[str, float], kept_operators: Collection[str] = ()) -> Halved:
    """Let a graph compute in float16, in place. Inputs and outputs keep their types.

    Args:
        model: a float32 graph.
        ranges: name of a value -> largest absolute value that was measured.
        kept_operators: further operators that stay float32.
    """
    halver = _Halver(model, ranges, frozenset(kept_operators) | _NO_HALF)
    for node in list(model.graph):
        halver.node(node)
    halver.outputs()
    return Halved(halver.kept, halver.halved)


class _Halver:
    def __init__(self, model: ir.Model, ranges: Mapping[str, float], operators: frozenset[str]) -> None:
        self._model, self._ranges, self._operators = model, ranges, operators
        self._casts: dict[tuple[int, bool], ir.Value] = {}
        self._half: set[int] = set()  # ids of values that are float16 now
        self._delicate: set[int] = set()  # ids of what was made with a constant that float16 cannot hold
        self.kept: dict[str, int] = {}
        self.halved = 0

    def node(self, node: ir.Node) -> None:
        import onnx_ir as ir

        if not any(_is_float(value, self._half) for value in (*node.inputs, *node.outputs)):
            return
        half = not self._must_stay(node)
        for index, value in enumerate(node.inputs):
            if value is not None and _is_float(value, self._half) and (id(value) in self._half) is not half:
                node.replace_input_with(index, self._cast(value, node, half=half))
        if not half:
            self.kept[node.op_type] = self.kept.get(node.op_type, 0) + 1
            if any(value is not None and value.is_initializer() and not _fits(value) for value in node.inputs):
                self._delicate.update(id(value) for value in node.outputs)
            return
        self.halved += 1
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR:
                tensor = attribute.as_tensor()
                if tensor.dtype == ir.DataType.FLOAT:
                    node.attributes[name] = ir.AttrTensor(name, ir.tensor(rounded(tensor.numpy())))
            elif name in ("to", "dtype") and attribute.value == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT16)
        if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float16)))
        for value in node.outputs:
            if _is_float(value):
                self._half.add(id(value))
                value.dtype = ir.DataType.FLOAT16

    def outputs(self) -> None:
        """Give outputs the types that they had."""
        import onnx_ir as ir

        for index, value in enumerate(list(self._model.graph.outputs)):
            if id(value) not in self._half:
                continue
            name, shape = value.name, value.shape
            value.name = f"{name}.half"
            back = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}.cast")
            back.outputs[0].name, back.outputs[0].shape = name, shape
            back.outputs[0].dtype = ir.DataType.FLOAT
            self._model.graph.append(back)
            self._model.graph.outputs[index] = back.outputs[0]

    def _must_stay(self, node: ir.Node) -> bool:
        if node.op_type in self._operators or node.domain == "ai.onnx.ml" or any(
            value is not None and value.graph is not self._model.graph for value in node.inputs
        ):  # fmt: skip
            return True
        # A Cast to float32 is where numbers enter that float16 may not hold; what comes out of it is measured too.
        for value in (*node.inputs, *node.outputs):
            if value is None or not _is_float(value, self._half):
                continue
            if id(value) in self._delicate:
                return True  # a division by the smallest norm, for example
            if self._ranges.get(str(value.name), 0.0) > SAFE:
                return True
            if value.is_initializer() and not _fits(value):
                return True
        return False

    def _cast(self, value: ir.Value, before: ir.Node, *, half: bool) -> ir.Value:
        import onnx_ir as ir

        key = (id(value), half)
        if key in self._casts:
            return self._casts[key]
        if half and value.is_initializer():
            made = self._half_weight(value)
        else:
            kind = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
            node = ir.node("Cast", [value], {"to": kind}, name=f"{value.name}.to_{kind.name.lower()}")
            made = node.outputs[0]
            made.name, made.shape = str(node.name), value.shape
            made.dtype = kind
            producer = value.producer()
            if producer is None:
                self._model.graph.insert_before(self._model.graph[0], node)
            else:
                self._model.graph.insert_after(producer, node)
        self._casts[key] = made
        if half:
            self._half.add(id(made))
        return made

    def _half_weight(self, value: ir.Value) -> ir.Value:
        import onnx_ir as ir

        tensor = value.const_value
        assert tensor is not None
        name = f"{value.name}.half"

        def read() -> ir.TensorProtocol:
            return ir.tensor(rounded(tensor.numpy()), name=name)

        lazy = ir.LazyTensor(read, ir.DataType.FLOAT16, shape=ir.Shape(tensor.shape), name=name)
        made = ir.Value(
            name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(ir.DataType.FLOAT16), const_value=lazy
        )
        self._model.graph.register_initializer(made)
        return made


def rounded(array: np.ndarray) -> np.ndarray:
    """The nearest float16 numbers; those that stand for "masked" become -30000.

    >>> rounded(np.array([0.1, -3.4e38], np.float32)).tolist()
    [0.0999755859375, -30000.0]
    """
    if array.size <= _MOST_CONSTANT and array.size and np.abs(array).max() > SAFE:
        array = np.clip(array, -_MASKED, _MASKED)
    return np.asarray(array.astype(np.float16))


def _fits(value: ir.Value) -> bool:
    """Whether float16 can hold a weight or a constant."""
    tensor = value.const_value
    if tensor is None:
        return True
    if tensor.size > _MOST_CONSTANT:
        return True  # weights: the measured range of what they give decides
    numbers = np.abs(tensor.numpy())
    tiny = (numbers > 0) & (numbers < _SMALLEST)
    large = (numbers > SAFE) & (numbers < 1e30)  # beyond: "masked"
    return not (tiny.any() or large.any())


def _is_float(value: ir.Value | None, halved: Collection[int] = ()) -> bool:
    import onnx_ir as ir

    return value is not None and (value.dtype == ir.DataType.FLOAT or id(value) in halved)
