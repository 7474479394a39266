"""GRU and LSTM layers of Keras 3 as one operator each, also where a mask skips steps.

Upstream (Keras 3.15, tf2onnx 1.17): Keras writes the layers as `tf.while_loop`, and tf2onnx recognizes in such a loop
only an LSTM without a mask, by the numbers of its weights; all else becomes an ONNX Loop, which ONNX Runtime runs
step by step. While a model is traced, the layers below put TensorFlow's own operator CudnnRNNV3 into the graph in place
of the loop. It is never run; its handler makes ONNX's GRU or LSTM of it. Weights do not pass through its `params`,
whose order is cuDNN's secret, but through a table, by a number that the operator carries as its `seed`.

ONNX skips only steps behind the last one of a row (`sequence_lens`), a mask of Keras any. So the steps of a row that
count are moved to its beginning, and what comes out is put back where they were.
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
class _Kind:
    """How a layer and an operator differ.

    Attributes:
        gates: for each gate of ONNX which of Keras it is.
        states: between two steps.
    """

    operator: str
    gates: tuple[int, ...]
    states: int


@dataclass(frozen=True)
class _Weights:
    """As ONNX wants them: (1, gates * units, features), (1, gates * units, units), (1, 2 * gates * units)."""

    kernel: Array
    recurrent: Array
    bias: Array
    attributes: dict[str, Any]


# Keras has the gates z, r, h and i, f, c, o; ONNX z, r, h and i, o, f, c.
_KINDS = {"GRU": _Kind("GRU", (0, 1, 2), 1), "LSTM": _Kind("LSTM", (0, 3, 1, 2), 2)}
# Keras' name to ONNX's, with alpha and beta where it has such.
_ACTIVATIONS: dict[str, tuple[str, tuple[float, float] | None]] = {
    "tanh": ("Tanh", None), "sigmoid": ("Sigmoid", None), "relu": ("Relu", None),
    "hard_sigmoid": ("HardSigmoid", (1 / 6, 0.5)), "linear": ("Affine", (1.0, 0.0)),
}  # fmt: skip
_table: dict[int, _Weights] = {}


@contextmanager
def recurrent_operators() -> Iterator[None]:
    """While a function is traced and converted: its GRU and LSTM layers become operators where they can."""
    layers = getattr(sys.modules.get("keras"), "layers", None)  # not imported: no layer of it is traced
    with ExitStack() as undo:
        undo.callback(_table.clear)
        for name, kind in _KINDS.items() if layers is not None else ():
            layer = getattr(layers, name)
            original = layer.inner_loop
            undo.callback(setattr, layer, "inner_loop", original)
            layer.inner_loop = _replaced(original, kind)
        yield


def _replaced(original: Any, kind: _Kind) -> Any:
    def inner_loop(self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        masks = tensorflow().nest.flatten(mask)[:1] if mask is not None else []
        possible = not training and _is_traced(sequences) and all(one.shape.rank == 2 for one in masks)
        weights = _weights(self, kind, sequences) if possible else None
        if weights is None:
            return original(self, sequences, initial_state, mask, training)
        return _operator(self, kind, weights, sequences, initial_state, masks[0] if masks else None)

    return inner_loop


def _is_traced(tensor: Any) -> bool:
    """Whether it belongs to the function that is traced itself, and not to a loop or a function in it."""
    from tensorflow.python.framework.func_graph import FuncGraph

    graph = getattr(tensor, "graph", None)
    return isinstance(graph, FuncGraph) and not isinstance(graph.outer_graph, FuncGraph)


def _weights(layer: Any, kind: _Kind, sequences: Any) -> _Weights | None:
    """The numbers of a layer; None where the operator cannot do what the layer does."""
    tf = tensorflow()
    cell, activations = layer.cell, (layer.recurrent_activation, layer.activation)
    names = [getattr(function, "__name__", "") for function in activations]
    if type(cell).__name__ != f"{kind.operator}Cell" or not type(cell).__module__.startswith("keras."):
        return None
    if any(name not in _ACTIVATIONS for name in names) or sequences.dtype != tf.float32:
        return None
    given = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    if any(not isinstance(getattr(one, "value", None), tf.Variable) or one.dtype != "float32" for one in given):
        return None  # quantized, with adapters, or of another precision
    with tf.init_scope():
        kernel, recurrent, *bias = (one.value.numpy() for one in given)
    gates, units = len(kind.gates), recurrent.shape[0]
    both = np.zeros((2, gates * units), np.float32)
    if bias and bias[0].ndim == 2:  # of the input and of the state
        both[:] = bias[0]
    elif bias:
        both[0] = bias[0]
    used = [_ACTIVATIONS[name] for name in (names[0], names[1], *([names[1]] if kind.states == 2 else []))]
    attributes: dict[str, Any] = {"hidden_size": units, "activations": [name for name, _ in used]}
    numbers = [pair for _, pair in used if pair is not None]  # of those activations alone that have such
    if numbers:
        attributes |= {"activation_alpha": [a for a, _ in numbers], "activation_beta": [b for _, b in numbers]}
    if kind.operator == "GRU":
        attributes["linear_before_reset"] = int(cell.reset_after)
    order = partial(_ordered, order=kind.gates)
    return _Weights(order(kernel).T[None], order(recurrent).T[None], order(both).reshape(1, -1), attributes)


def _ordered(array: Array, order: tuple[int, ...]) -> Array:
    """Gates, which lie side by side on the last axis, in another order."""
    return np.concatenate([np.split(array, len(order), -1)[gate] for gate in order], -1)


def _operator(layer: Any, kind: _Kind, weights: _Weights, sequences: Any, initial_state: Any, mask: Any) -> Any:
    """(last output, outputs, states), as `inner_loop` gives them."""
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
        place = tf.range(steps)
        # Real steps first, in their order.
        _, order = tf.math.top_k(tf.where(mask, 2 * steps - place, steps - place), steps)
        sequences = tf.gather(sequences, order, batch_dims=1)
    key = max(_table, default=0) + 1
    _table[key] = weights
    found = tf.raw_ops.CudnnRNNV3(
        input=tf.transpose(sequences, [1, 0, 2]), input_h=states[0][None], input_c=states[-1][None],
        params=tf.zeros([1]), sequence_lengths=lengths, rnn_mode=kind.operator.lower(), seed=key,
        seed2=int(mask is not None), is_training=False,
    )  # fmt: skip
    outputs = tf.transpose(found.output, [1, 0, 2])
    ended = [found.output_h[0], *([found.output_c[0]] if kind.states == 2 else [])]
    if mask is None:
        last = ended[0]
    else:
        place = tf.cumsum(tf.cast(mask, tf.int32), 1) - 1
        outputs = tf.gather(outputs, tf.maximum(place, 0), batch_dims=1)
        kept = mask if layer.zero_output_for_mask else place >= 0
        outputs = tf.where(kept[:, :, None], outputs, tf.zeros_like(outputs))
        ended = [
            tf.where((lengths > 0)[:, None], now, before) for now, before in zip(ended, states, strict=True)
        ]  # fmt: skip
        last = outputs[:, -1]
    return last, outputs if layer.return_sequences else last[:, None], ended


class CudnnRnn:
    """The handler for tf2onnx: ONNX's GRU or LSTM, with weights of the table."""

    @classmethod
    def version_7(cls, ctx: Any, node: Any, **_: Any) -> None:
        """Args: as tf2onnx calls handlers.

        Raises:
            ValueError: an operator that a user's own model brought along.
        """
        from tf2onnx import utils

        weights = _table.get(node.get_attr_int("seed"))
        if weights is None:
            raise ValueError("a CudnnRNNV3 whose weights are in cuDNN's order")
        kind = _KINDS[node.get_attr_str("rnn_mode").upper()]
        masked = node.get_attr_int("seed2") == 1
        (data, hidden, cell, _params, lengths), outputs = node.input, list(node.output)
        shapes = [ctx.get_shape(name) for name in outputs[:3]]
        ctx.remove_node(node.name)
        numbers = [
            ctx.make_const(utils.make_name(name), array).output[0]
            for name, array in (("W", weights.kernel), ("R", weights.recurrent), ("B", weights.bias))
        ]
        made = ctx.make_node(
            kind.operator, [data, *numbers, lengths if masked else "", hidden, *([cell] if kind.states == 2 else [])],
            outputs=[utils.make_name("Y"), *outputs[1 : 1 + kind.states]], attr=weights.attributes,
            shapes=[None, *shapes[1 : 1 + kind.states]], dtypes=[ctx.get_dtype(data)] * (1 + kind.states),
            skip_conversion=True,
        )  # fmt: skip
        axis = ctx.make_const(utils.make_name("axis"), np.array([1], np.int64)).output[0]
        ctx.make_node(
            "Squeeze", [made.output[0], axis], outputs=[outputs[0]], shapes=[shapes[0]], dtypes=[ctx.get_dtype(data)]
        )
