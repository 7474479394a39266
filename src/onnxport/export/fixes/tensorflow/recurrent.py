"""Export GRU and LSTM layers of Keras 3 as one operator each, also with a mask.

Upstream (Keras 3.15, tf2onnx 1.17): Keras writes the layers as `tf.while_loop`. tf2onnx recognizes only an LSTM without
a mask in such a loop, by the values of its weights; all else becomes an ONNX Loop, which ONNX Runtime runs step by
step. While a model is traced, the layers below put TensorFlow's operator CudnnRNNV3 into the graph instead of the loop.
It is never run; its handler turns it into ONNX's GRU or LSTM. The layout of its `params` is internal to cuDNN, so the
weights are kept in a table here, and the operator carries their key as its `seed`.

ONNX masks only steps at the end of a row (`sequence_lens`); a Keras mask can hide any step. So the real steps of a row
are moved to its start, and the outputs are moved back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxport.sources.tensorflow.source import tensorflow

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Layer:
    """How a Keras layer maps to an ONNX operator.

    Attributes:
        operator: the ONNX operator.
        gates: for each gate of ONNX, the index of Keras' gate.
        states: number of states.
    """

    operator: str
    gates: tuple[int, ...]
    states: int


@dataclass(frozen=True)
class _Weights:
    """Weights in ONNX's layout.

    Attributes:
        kernel: (1, gates * units, features).
        recurrent: (1, gates * units, units).
        bias: (1, 2 * gates * units).
        attributes: attributes of the operator.
    """

    kernel: Array
    recurrent: Array
    bias: Array
    attributes: dict[str, Any]


# Order of gates: Keras z, r, h and i, f, c, o; ONNX z, r, h and i, o, f, c.
_LAYERS = {"GRU": _Layer("GRU", (0, 1, 2), 1), "LSTM": _Layer("LSTM", (0, 3, 1, 2), 2)}
# Keras' name -> ONNX's name, with alpha and beta if it has them.
_ACTIVATIONS: dict[str, tuple[str, tuple[float, float] | None]] = {
    "tanh": ("Tanh", None), "sigmoid": ("Sigmoid", None), "relu": ("Relu", None),
    "hard_sigmoid": ("HardSigmoid", (1 / 6, 0.5)), "linear": ("Affine", (1.0, 0.0)),
}  # fmt: skip
_weights_by_key: dict[int, _Weights] = {}


@contextmanager
def recurrent_operators() -> Iterator[None]:
    """Export GRU and LSTM layers as operators where possible, while a function is traced and converted."""
    layers = getattr(sys.modules.get("keras"), "layers", None)  # Keras is not imported, so none of its layers is traced
    with ExitStack() as undo:
        undo.callback(_weights_by_key.clear)
        for name, layer_type in _LAYERS.items() if layers is not None else ():
            layer = getattr(layers, name)
            original = layer.inner_loop
            undo.callback(setattr, layer, "inner_loop", original)
            layer.inner_loop = _with_operator(original, layer_type)
        yield


def _with_operator(original: Any, layer_type: _Layer) -> Any:
    def inner_loop(self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        masks = tensorflow().nest.flatten(mask)[:1] if mask is not None else []
        possible = not training and _is_in_traced_function(sequences) and all(one.shape.rank == 2 for one in masks)
        weights = _weights(self, layer_type, sequences) if possible else None
        if weights is None:
            return original(self, sequences, initial_state, mask, training)
        return _operator(self, layer_type, weights, sequences, initial_state, masks[0] if masks else None)

    return inner_loop


def _is_in_traced_function(tensor: Any) -> bool:
    """Return whether a tensor is in the traced function itself, not in a loop or function inside of it."""
    from tensorflow.python.framework.func_graph import FuncGraph

    graph = getattr(tensor, "graph", None)
    return isinstance(graph, FuncGraph) and not isinstance(graph.outer_graph, FuncGraph)


def _weights(layer: Any, layer_type: _Layer, sequences: Any) -> _Weights | None:
    """Return the weights of a layer; None if the operator cannot do what the layer does."""
    tf = tensorflow()
    cell, activations = layer.cell, (layer.recurrent_activation, layer.activation)
    names = [getattr(function, "__name__", "") for function in activations]
    if type(cell).__name__ != f"{layer_type.operator}Cell" or not type(cell).__module__.startswith("keras."):
        return None
    if any(name not in _ACTIVATIONS for name in names) or sequences.dtype != tf.float32:
        return None
    variables = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    if any(not isinstance(getattr(one, "value", None), tf.Variable) or one.dtype != "float32" for one in variables):
        return None  # quantized, with adapters, or not float32
    with tf.init_scope():
        kernel, recurrent, *bias = (one.value.numpy() for one in variables)
    gates, units = len(layer_type.gates), recurrent.shape[0]
    biases = np.zeros((2, gates * units), np.float32)
    if bias and bias[0].ndim == 2:  # separate biases for input and state
        biases[:] = bias[0]
    elif bias:
        biases[0] = bias[0]
    activation_list = [
        _ACTIVATIONS[name] for name in (names[0], names[1], *([names[1]] if layer_type.states == 2 else []))
    ]
    attributes: dict[str, Any] = {"hidden_size": units, "activations": [name for name, _ in activation_list]}
    numbers = [pair for _, pair in activation_list if pair is not None]  # only of activations that have them
    if numbers:
        attributes |= {"activation_alpha": [a for a, _ in numbers], "activation_beta": [b for _, b in numbers]}
    if layer_type.operator == "GRU":
        attributes["linear_before_reset"] = int(cell.reset_after)
    order = partial(_reorder_gates, order=layer_type.gates)
    return _Weights(order(kernel).T[None], order(recurrent).T[None], order(biases).reshape(1, -1), attributes)


def _reorder_gates(array: Array, order: tuple[int, ...]) -> Array:
    """Reorder gates, which are concatenated on the last axis."""
    return np.concatenate([np.split(array, len(order), -1)[gate] for gate in order], -1)


def _operator(layer: Any, layer_type: _Layer, weights: _Weights, sequences: Any, initial_state: Any, mask: Any) -> Any:
    """Return (last output, outputs, states), as `inner_loop` does."""
    tf = tensorflow()
    states = [tf.cast(state, tf.float32) for state in tf.nest.flatten(initial_state)]
    if layer.go_backwards:
        sequences = tf.reverse(sequences, [1])
        mask = tf.reverse(mask, [1]) if mask is not None else None
    batch, steps = tf.shape(sequences)[0], tf.shape(sequences)[1]
    lengths = tf.fill([batch], steps)
    if mask is not None:
        mask = tf.cast(mask, tf.bool)
        lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
        position = tf.range(steps)
        # Real steps first, in their original order.
        _, order = tf.math.top_k(tf.where(mask, 2 * steps - position, steps - position), steps)
        sequences = tf.gather(sequences, order, batch_dims=1)
    key = max(_weights_by_key, default=0) + 1
    _weights_by_key[key] = weights
    results = tf.raw_ops.CudnnRNNV3(
        input=tf.transpose(sequences, [1, 0, 2]), input_h=states[0][None], input_c=states[-1][None],
        params=tf.zeros([1]), sequence_lengths=lengths, rnn_mode=layer_type.operator.lower(), seed=key,
        seed2=int(mask is not None), is_training=False,
    )  # fmt: skip
    outputs = tf.transpose(results.output, [1, 0, 2])
    final_states = [results.output_h[0], *([results.output_c[0]] if layer_type.states == 2 else [])]
    if mask is None:
        last = final_states[0]
    else:
        position = tf.cumsum(tf.cast(mask, tf.int32), 1) - 1
        outputs = tf.gather(outputs, tf.maximum(position, 0), batch_dims=1)
        kept = mask if layer.zero_output_for_mask else position >= 0
        outputs = tf.where(kept[:, :, None], outputs, tf.zeros_like(outputs))
        final_states = [
            tf.where((lengths > 0)[:, None], now, before) for now, before in zip(final_states, states, strict=True)
        ]  # fmt: skip
        last = outputs[:, -1]
    return last, outputs if layer.return_sequences else last[:, None], final_states


class CudnnRnn:
    """tf2onnx's handler for CudnnRNNV3: ONNX's GRU or LSTM."""

    @classmethod
    def version_7(cls, ctx: Any, node: Any, **_: Any) -> None:
        """Replace the node.

        Args:
            ctx: tf2onnx's graph.
            node: the node.
            **_: other arguments of handlers.

        Raises:
            ValueError: the operator comes from the user's model, with weights in cuDNN's layout.
        """
        from tf2onnx import utils

        weights = _weights_by_key.get(node.get_attr_int("seed"))
        if weights is None:
            raise ValueError("CudnnRNNV3 with weights in cuDNN's layout is not supported")
        layer_type = _LAYERS[node.get_attr_str("rnn_mode").upper()]
        masked = node.get_attr_int("seed2") == 1
        (data, hidden, cell, _params, lengths), outputs = node.input, list(node.output)
        shapes = [ctx.get_shape(name) for name in outputs[:3]]
        ctx.remove_node(node.name)
        numbers = [
            ctx.make_const(utils.make_name(name), array).output[0]
            for name, array in (("W", weights.kernel), ("R", weights.recurrent), ("B", weights.bias))
        ]
        made = ctx.make_node(
            layer_type.operator,
            [data, *numbers, lengths if masked else "", hidden, *([cell] if layer_type.states == 2 else [])],
            outputs=[utils.make_name("Y"), *outputs[1 : 1 + layer_type.states]], attr=weights.attributes,
            shapes=[None, *shapes[1 : 1 + layer_type.states]], dtypes=[ctx.get_dtype(data)] * (1 + layer_type.states),
            skip_conversion=True,
        )  # fmt: skip
        axis = ctx.make_const(utils.make_name("axis"), np.array([1], np.int64)).output[0]
        ctx.make_node(
            "Squeeze", [made.output[0], axis], outputs=[outputs[0]], shapes=[shapes[0]], dtypes=[ctx.get_dtype(data)]
        )
