"""Resolve branches on tensor sizes in TensorFlow code while it is traced with dynamic axes.

Upstream (transformers 4.52): decoders write `if input_shape[-1] > 1:` or `tf.cond` to omit a mask that a single token
does not need. TensorFlow raises an error for the first if the size is dynamic; AutoGraph and `tf.cond` put both
branches into the graph. Here the branch is resolved with the sizes of sample inputs, as torch.export does. Verification
runs one token, no past, and other sizes than the traced ones, so a wrong branch is found. Branches on tensor values are
never resolved.

Keras 3.15 asks `if size[0] <= 0` before it resizes an image. A branch that is the same at all sizes that were probed
does not make an axis static (`export.tensorflow`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from onnxport.sources.tensorflow.source import tensorflow

# Operators whose result depends only on the shape of the input.
_SHAPE_OPERATORS = frozenset({"Shape", "ShapeN", "Size", "Rank"})
Sample = Mapping[Any, np.ndarray[Any, Any]]


@contextmanager
def resolve_shape_branches(samples: Sequence[Sample]) -> Iterator[None]:
    """Let symbolic tensors that depend only on sizes be used as conditions, if all samples agree.

    Args:
        samples: arrays by references (`Tensor.ref`) to the symbolic inputs of the function that is traced.
    """
    from tensorflow.python.framework.tensor import Tensor

    tf = tensorflow()
    original_bool, original_cond = Tensor.__bool__, tf.cond

    def truth(tensor: Any) -> bool:
        found = _common_truth(tensor, samples)
        return bool(original_bool(tensor)) if found is None else found

    def cond(pred: Any, true_fn: Callable[[], Any] | None = None, false_fn: Any = None, name: Any = None) -> Any:
        found = _common_truth(pred, samples)
        if found is None or true_fn is None or false_fn is None:
            return original_cond(pred, true_fn, false_fn, name)
        return true_fn() if found else false_fn()

    Tensor.__bool__, tf.cond = truth, cond
    try:
        yield
    finally:
        Tensor.__bool__, tf.cond = original_bool, original_cond


def _common_truth(tensor: Any, samples: Sequence[Sample]) -> bool | None:
    """Return the truth of a condition if it is the same for all samples."""
    truths = {_truth(tensor, sample) for sample in samples}
    return truths.pop() if len(truths) == 1 else None


def _truth(tensor: Any, sample: Sample) -> bool | None:
    """Return whether a tensor is true at the sizes of `sample`; None if it depends on values."""
    if not hasattr(tensor, "graph") or not _depends_on_sizes(tensor):
        return None
    try:
        return bool(_evaluate(tensor, sample))
    except Exception:  # for example a size that depends on weights
        return None


def _depends_on_sizes(tensor: Any) -> bool:
    """Return whether a tensor depends on sizes of inputs, not on their values."""
    captured = {inner.ref(): outer for outer, inner in getattr(tensor.graph, "captures", ())}
    waiting, seen = [tensor], set()
    while waiting:
        current = waiting.pop()
        if current.ref() in seen or current.op.type in _SHAPE_OPERATORS:
            continue
        seen.add(current.ref())
        if current.ref() in captured:
            outer = captured[current.ref()]
            if not hasattr(outer, "graph") or not _depends_on_sizes(outer):
                return False
        elif current.op.type.startswith("Placeholder"):
            return False
        waiting += current.op.inputs
    return True


def _evaluate(tensor: Any, sample: Sample) -> np.ndarray[Any, Any]:
    """Return the value of a tensor for `sample`, by running the subgraph that it needs."""
    tf = tensorflow()
    needed = tf.compat.v1.graph_util.extract_sub_graph(tensor.graph.as_graph_def(), [tensor.op.name])
    names = {node.name for node in needed.node}
    feed = {}
    for outer, inner in getattr(tensor.graph, "captures", ()):
        if inner.op.name not in names:
            continue
        if inner.dtype != tf.resource:
            feed[inner.name] = _evaluate(outer, sample) if hasattr(outer, "graph") else outer.numpy()
            continue
        for read in inner.consumers():  # weights are given as values
            if read.name in names and read.type == "ReadVariableOp":
                with tf.init_scope():  # outside of the traced function
                    numbers = tf.raw_ops.ReadVariableOp(resource=outer, dtype=read.outputs[0].dtype)
                feed[read.outputs[0].name] = numbers.numpy()
    for reference, array in sample.items():
        given = reference.deref()
        if given.graph is tensor.graph and given.op.name in names:
            feed[given.name] = array
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(needed, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            found: np.ndarray[Any, Any] = session.run(tensor.name, feed)
    return found
