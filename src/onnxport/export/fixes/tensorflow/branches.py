"""Branches of a TF model's code that ask for a size, while it is traced with free axes.

Upstream (transformers 4.52): decoders write `if input_shape[-1] > 1:` or `tf.cond` to leave out a mask that one token
does not need. TensorFlow refuses the first about a size that is free, AutoGraph and the second put both branches into
the graph. Here the question is answered with the sizes of the traced sample, as torch.export answers it. That the
branch is right for other sizes is not taken for granted: verification runs one token, no past, and sizes that were not
traced. A question about numbers, and not sizes, stays a branch of the graph or is refused.

Keras 3.15 asks `if size[0] <= 0` before it resizes an image. What is answered alike at all sizes that the model was
probed at needs no fixed size (`export.tensorflow`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from onnxport.sources.tensorflow.source import tensorflow

# What depends on the shape of its input alone.
_OF_SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank"})
Sample = Mapping[Any, np.ndarray[Any, Any]]


@contextmanager
def resolve_shape_branches(samples: Sequence[Sample]) -> Iterator[None]:
    """Symbolic tensors that depend on sizes alone can be asked whether they are true, where all samples agree.

    Args:
        samples: arrays by references (`Tensor.ref`) to the symbolic inputs of the function that is being traced.
    """
    from tensorflow.python.framework.tensor import Tensor

    tf = tensorflow()
    ask, branch = Tensor.__bool__, tf.cond

    def answer(tensor: Any) -> bool:
        found = _common(tensor, samples)
        return bool(ask(tensor)) if found is None else found

    def chosen(pred: Any, true_fn: Callable[[], Any] | None = None, false_fn: Any = None, name: Any = None) -> Any:
        found = _common(pred, samples)
        if found is None or true_fn is None or false_fn is None:
            return branch(pred, true_fn, false_fn, name)
        return true_fn() if found else false_fn()

    Tensor.__bool__, tf.cond = answer, chosen
    try:
        yield
    finally:
        Tensor.__bool__, tf.cond = ask, branch


def _common(tensor: Any, samples: Sequence[Sample]) -> bool | None:
    """What all samples answer."""
    answers = {_answer(tensor, sample) for sample in samples}
    return answers.pop() if len(answers) == 1 else None


def _answer(tensor: Any, sample: Sample) -> bool | None:
    """Whether a tensor is true for sizes as those of `sample`; None where that cannot be said."""
    if not hasattr(tensor, "graph") or not _asks_sizes(tensor):
        return None
    try:
        return bool(_value(tensor, sample))
    except Exception:  # a size that follows from weights, say
        return None


def _asks_sizes(tensor: Any) -> bool:
    """Whether no number of an input has a part in a tensor, but sizes."""
    captured = {inner.ref(): outer for outer, inner in getattr(tensor.graph, "captures", ())}
    waiting, seen = [tensor], set()
    while waiting:
        current = waiting.pop()
        if current.ref() in seen or current.op.type in _OF_SHAPES:
            continue
        seen.add(current.ref())
        if current.ref() in captured:
            outer = captured[current.ref()]
            if not hasattr(outer, "graph") or not _asks_sizes(outer):
                return False
        elif current.op.type.startswith("Placeholder"):
            return False
        waiting += current.op.inputs
    return True


def _value(tensor: Any, sample: Sample) -> np.ndarray[Any, Any]:
    """What a tensor is for `sample`: the part of the graph that it needs is run."""
    tf = tensorflow()
    needed = tf.compat.v1.graph_util.extract_sub_graph(tensor.graph.as_graph_def(), [tensor.op.name])
    names = {node.name for node in needed.node}
    feed = {}
    for outer, inner in getattr(tensor.graph, "captures", ()):
        if inner.op.name not in names:
            continue
        if inner.dtype != tf.resource:
            feed[inner.name] = _value(outer, sample) if hasattr(outer, "graph") else outer.numpy()
            continue
        for read in inner.consumers():  # of weights there are only numbers here
            if read.name in names and read.type == "ReadVariableOp":
                with tf.init_scope():  # out of the function that is being traced
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
