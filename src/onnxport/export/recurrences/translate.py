"""The recurrences in ONNX: what is inside a chunk of steps as products of matrices, from chunk to chunk a Scan.

The chunked form is that of the papers (`operators`). A chunk has as many steps as there are, 64 at most, so that a
single token costs one step. The delta rule needs the inverse of I + L, with L strictly lower triangular: it is built
from the inverses of the blocks on the diagonal, which double in size in each round:

    [A 0; C D]^-1 = [A^-1 0; -D^-1 C A^-1 D^-1]

That is as stable as forward substitution. A sum of powers of L is not: they grow before they cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import opset18 as op
from torch.onnx._internal.exporter._torchlib.ops.hop import call_op

_CHUNK = 64  # steps; as in transformers
_STEPS = 2  # their axis

# (state, values, what the state already has, decayed query, scores, decayed key, decay) -> (next state, output)
_DELTA_RULE = """
body (float[b,h,k,v] S, float[b,h,c,v] U, float[b,h,c,k] W, float[b,h,c,k] Q, float[b,h,c,c] P, float[b,h,c,k] K,
      float[b,h,1,1] D) => (float[b,h,k,v] N, float[b,h,c,v] O) {
  known = MatMul(W, S)
  change = Sub(U, known)
  earlier = MatMul(Q, S)
  inside = MatMul(P, change)
  O = Add(earlier, inside)
  kept = Mul(S, D)
  columns = Transpose<perm = [0, 1, 3, 2]>(K)
  new = MatMul(columns, change)
  N = Add(kept, new)
}
"""
_ATTENTION = """
body (float[b,h,k,v] S, float[b,h,c,v] U, float[b,h,c,k] Q, float[b,h,c,k] K, float[b,h,1,1] D)
  => (float[b,h,k,v] N, float[b,h,c,v] O) {
  O = MatMul(Q, S)
  kept = Mul(S, D)
  columns = Transpose<perm = [0, 1, 3, 2]>(K)
  new = MatMul(columns, U)
  N = Add(kept, new)
}
"""
# (state, x * step, step, b, c, a) -> (next state, output)
_CHANNELS = """
body (float[r,n,s] S, float[r,n] X, float[r,n] T, float[r,s] B, float[r,s] C,
      float[n,s] A) => (float[r,n,s] N, float[r,n] O) {
  last = Constant<value_ints = [2]>()
  first = Constant<value_ints = [1]>()
  steps = Unsqueeze(T, last)
  rate = Mul(steps, A)
  decay = Exp(rate)
  kept = Mul(decay, S)
  column = Unsqueeze(X, last)
  row = Unsqueeze(B, first)
  new = Mul(column, row)
  N = Add(kept, new)
  weights = Unsqueeze(C, last)
  sums = MatMul(N, weights)
  O = Squeeze(sums, last)
}
"""


def decayed_attention(query: Any, key: Any, value: Any, decay: Any, state: Any) -> tuple[Any, Any]:
    """`operators.Operators.attention` in ONNX."""
    chunks = _Chunks(query, key, value, decay)
    inside = op.MatMul(chunks.scores(chunks.query), chunks.value)
    last, earlier = _scan(
        _ATTENTION, state, (chunks.value, chunks.decayed_query, chunks.decayed_key, chunks.chunk_decay)
    )
    return chunks.joined(op.Add(inside, earlier)), last


def delta_rule(query: Any, key: Any, value: Any, decay: Any, beta: Any, state: Any) -> tuple[Any, Any]:
    """`operators.Operators.delta_rule` in ONNX."""
    rate = op.Unsqueeze(beta, _ints(-1))
    chunks = _Chunks(query, key, op.Mul(value, rate), decay)
    learned = chunks.split(op.Mul(key, rate), key)
    inverse = chunks.inverse(chunks.scores(learned))
    values = op.MatMul(inverse, chunks.value)
    known = op.MatMul(inverse, op.Mul(learned, chunks.decay_until))
    last, output = _scan(
        _DELTA_RULE, state,
        (values, known, chunks.decayed_query, chunks.scores(chunks.query), chunks.decayed_key, chunks.chunk_decay),
    )  # fmt: skip
    return chunks.joined(output), last


def channel_recurrence(x: Any, step: Any, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    """`operators.Operators.channels` in ONNX."""
    sizes = op.Concat(op.Shape(x, start=0, end=2), op.Shape(a, start=1, end=2), axis=0)
    state = op.ConstantOfShape(sizes)
    last, output = _scan(_CHANNELS, state, (op.Mul(x, step), step, b, c), axes=(_STEPS, _STEPS, 1, 1), outer={"A": a})
    return output, last


class _Chunks:
    """Inputs of a recurrence in chunks, (rows, heads, chunks, steps, size).

    Attributes:
        query, key, value: as they are.
        decay_until: exp of the sum of decays from the beginning of the chunk to the step.
        decayed_query, decayed_key: as a state before the chunk is read, and as it is written after it.
        chunk_decay: of a whole chunk, (rows, heads, chunks, 1, 1).
    """

    def __init__(self, query: Any, key: Any, value: Any, decay: Any) -> None:
        self.steps = op.Shape(query, start=_STEPS, end=_STEPS + 1)
        self.size = op.Min(self.steps, _ints(_CHUNK))
        count = op.Div(op.Sub(op.Add(self.steps, self.size), _ints(1)), self.size)
        self.missing = op.Sub(op.Mul(count, self.size), self.steps)
        self.query, self.key, self.value = (self.split(tensor, tensor) for tensor in (query, key, value))
        padded = op.Pad(decay, op.Concat(_ints(0, 0, 0, 0, 0), self.missing, axis=0))
        sums = op.CumSum(op.Reshape(padded, op.Concat(_ints(0, 0, -1), self.size, axis=0)), _int(-1))
        columns, rows = op.Unsqueeze(sums, _ints(-1)), op.Unsqueeze(sums, _ints(-2))
        places = op.Range(_int(0), op.Squeeze(self.size), _int(1))
        self.row, self.column = op.Unsqueeze(places, _ints(1)), op.Unsqueeze(places, _ints(0))
        later = op.Less(self.row, self.column)
        self.pairs = op.Exp(op.Where(later, _float(-np.inf), op.Sub(columns, rows)))
        self.decay_until = op.Exp(columns)
        whole = op.Gather(sums, op.Sub(self.size, _ints(1)), axis=3)
        self.decayed_query = op.Mul(self.query, self.decay_until)
        self.decayed_key = op.Mul(self.key, op.Unsqueeze(op.Exp(op.Sub(whole, sums)), _ints(-1)))
        self.chunk_decay = op.Unsqueeze(op.Exp(whole), _ints(-1))

    def split(self, tensor: Any, like: Any) -> Any:
        """(rows, heads, steps, size) in chunks; `like` has its size."""
        padded = op.Pad(tensor, op.Concat(_ints(0, 0, 0, 0, 0, 0), self.missing, _ints(0), axis=0))
        last = op.Shape(like, start=3, end=4)
        return op.Reshape(padded, op.Concat(_ints(0, 0, -1), self.size, last, axis=0))

    def joined(self, tensor: Any) -> Any:
        """The inverse of `split`."""
        flat = op.Reshape(tensor, op.Concat(_ints(0, 0, -1), op.Shape(tensor, start=4, end=5), axis=0))
        return op.Slice(flat, _ints(0), self.steps, _ints(_STEPS))

    def scores(self, query: Any) -> Any:
        """Of each step for those before it in the chunk and itself."""
        return op.Mul(op.MatMul(query, op.Transpose(self.key, perm=[0, 1, 2, 4, 3])), self.pairs)

    def inverse(self, scores: Any) -> Any:
        """Of I + what is strictly below the diagonal of `scores`."""
        one = op.CastLike(op.Equal(self.row, self.column), scores)
        size, found = 1, one
        while size < _CHUNK:
            block, double = (_places(self.row, size), _places(self.column, size)), 2 * size
            together = op.Equal(_places(self.row, double), _places(self.column, double))
            below = op.Where(op.And(together, op.Greater(*block)), scores, _float(0))
            inside = below if size == 1 else op.MatMul(op.MatMul(found, below), found)
            found = op.Sub(found, inside)
            size = double
        return found


def _places(places: Any, size: int) -> Any:
    """Numbers of the blocks of that size."""
    return places if size == 1 else op.Div(places, _ints(size))


def _scan(
    body: str, state: Any, given: Sequence[Any], axes: Sequence[int] = (), outer: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """(last state, outputs of all steps or chunks).

    Args:
        given: what is read step by step.
        axes: along which; the third of each by default.
        outer: see `_graph`.
    """
    last, outputs = call_op(
        "Scan", state, *given, _num_outputs=2, body=_graph(body, outer or {}), num_scan_inputs=len(given),
        scan_input_axes=list(axes) or [_STEPS] * len(given), scan_output_axes=[_STEPS],
    )  # fmt: skip
    return last, outputs


def _graph(text: str, outer: Mapping[str, Any]) -> ir.Graph:
    """A body; inputs with names of `outer` are values of the graph around it instead."""
    graph = ir.serde.deserialize_graph(onnx.parser.parse_graph(text.strip()))
    for value in [value for value in graph.inputs if value.name in outer]:
        value.replace_all_uses_with(outer[value.name])
        graph.inputs.remove(value)
    return graph


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _int(value: int) -> Any:
    return op.Constant(value_int=value)


def _float(value: float) -> Any:
    return op.Constant(value_float=float(value))
