"""Graphs with one integer product each, what they give exactly, and what 16-bit sums make of it, in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"


def saturating_product(activations: Array, weights: Array) -> Array:
    """What vpmaddubsw gives: rows in pairs, each pair added in 16 bits and cut off there, pairs added in 32 bits.

    Args:
        activations: [M, K], uint8.
        weights: [K, N], int8.

    Returns:
        [M, N], int64.
    """
    a, w = activations.astype(np.int64), weights.astype(np.int64)
    if a.shape[1] % 2:
        a, w = np.pad(a, ((0, 0), (0, 1))), np.pad(w, ((0, 1), (0, 0)))
    pairs = a[:, 0::2, None] * w[None, 0::2] + a[:, 1::2, None] * w[None, 1::2]
    return np.clip(pairs, -32768, 32767).sum(1)


def exact_product(activations: Array, weights: Array) -> Array:
    """The same without cutting off: [M, N], int64."""
    return activations.astype(np.int64) @ weights.astype(np.int64)


def graph_of(node: onnx.NodeProto, tensors: dict[str, Array], kinds: dict[str, int], output: int) -> onnx.ModelProto:
    """A model of one node.

    Args:
        node: its output is "y".
        tensors: what is constant.
        kinds: the inputs, with their element type.
        output: element type of "y".
    """
    graph = helper.make_graph(
        [node], "product", [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def integer_matmul(weights: Array, activations: int = TensorProto.UINT8) -> onnx.ModelProto:
    """MatMulInteger of "x" and the weights."""
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="product")
    return graph_of(node, {"w": weights}, {"x": activations}, TensorProto.INT32)


def quantized_conv(weights: Array, group: int = 1) -> onnx.ModelProto:
    """QLinearConv of "x" and the weights with scales of one; what 8 bits cannot hold of the output is divided out."""
    largest = int(np.maximum(weights.astype(np.int64), 0).sum(axis=(1, 2, 3)).max()) * 255
    tensors = {
        "one": np.float32(1), "zero": np.uint8(0), "signed_zero": weights.dtype.type(0), "w": weights,
        "out": np.float32(largest / 250),
    }  # fmt: skip
    node = helper.make_node(
        "QLinearConv", ["x", "one", "zero", "w", "one", "signed_zero", "out", "zero"], ["y"], name="product",
        group=group,
    )  # fmt: skip
    return graph_of(node, tensors, {"x": TensorProto.UINT8}, TensorProto.UINT8)


def run(model: onnx.ModelProto | Path, **inputs: Array) -> Array:
    """The output of a model."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return np.asarray(onnxruntime.InferenceSession(source, settings).run(None, inputs)[0])
