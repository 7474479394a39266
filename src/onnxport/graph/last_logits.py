"""Add the optional input `num_logits_to_keep`: return the logits of the last tokens only.

Generation reads a prompt's logits at its last token only, and the product with the vocabulary is a large part of
the cost of a prompt. The graph gets an optional scalar int64 input. 0, the default, returns the logits of all tokens;
N returns the logits of the last N tokens of each row. transformers.js and other run times use the same name.

The operators that compute each token's logits from the hidden state of that token are followed back from the output.
If any other operator is found, the graph is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from onnxport.specs import TensorSpec
from onnxport.tensor_names import NUM_LOGITS, NUM_LOGITS_TO_KEEP, is_past

if TYPE_CHECKING:
    import onnx_ir as ir

NUM_LOGITS_TO_KEEP_SPEC = TensorSpec(NUM_LOGITS_TO_KEEP, "int64", ())

_LOGITS, _TOKENS, _ALL = "logits", "sequence_length", 2**63 - 1
_UNARY = frozenset({"Cast", "Identity", "Tanh", "Neg", "Clip", "Sigmoid"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})
_RANK = 3
_WORD = re.compile(rf"\b{_TOKENS}\b")


def keep_last_logits(model: ir.Model) -> bool:
    """Add the input to a decoder's graph, in place.

    Args:
        model: a graph with named axes.

    Returns:
        Whether the input was added: False if the graph is no decoder, or computes logits in another way.
    """
    logits = next((value for value in model.graph.outputs if value.name == _LOGITS), None)
    generates = any(is_past(str(value.name)) for value in model.graph.inputs)
    if logits is None or not generates or not _is_by_token(logits):
        return False
    found = _vocabulary_projection(logits)
    if found is None:
        return False
    _slice(model, *found)
    return True


def axes_with_kept_logits(outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the output specs as they are after `keep_last_logits`.

    Args:
        outputs: the specs before.
    """
    return tuple(
        replace(spec, axes=tuple(NUM_LOGITS if axis == _TOKENS else axis for axis in spec.axes))
        if spec.name == _LOGITS
        else spec
        for spec in outputs
    )


def _is_by_token(value: ir.Value) -> bool:
    """Return whether the shape is (batch, sequence_length, features)."""
    shape = value.shape
    return shape is not None and len(shape) == _RANK and _name(shape[1]) == _TOKENS


def _name(size: object) -> str | None:
    return getattr(size, "value", None)


def _vocabulary_projection(logits: ir.Value) -> tuple[ir.Value, list[ir.Node]] | None:
    """Return the hidden states before the vocabulary projection, and their users that lead to `logits`."""
    value = logits
    while (node := value.producer()) is not None and node.domain in ("", "ai.onnx"):
        if value is not logits and (len(value.uses()) > 1 or value.is_graph_output()):
            return None
        data = node.inputs[0] if node.inputs else None
        if node.op_type == "MatMul":
            known = data is not None and _is_by_token(data) and _is_weight(node.inputs[1])
            return (cast("ir.Value", data), [node]) if known else None
        if node.op_type == "Reshape":
            return _flat_product(node)
        if node.op_type in _BINARY:
            data = next((given for given in node.inputs if not _is_same_for_tokens(given)), None)
            if sum(not _is_same_for_tokens(given) for given in node.inputs) != 1:
                return None
        elif node.op_type not in _UNARY:
            return None
        if data is None or not _is_by_token(data):
            return None
        value = data
    return None


def _flat_product(node: ir.Node) -> tuple[ir.Value, list[ir.Node]] | None:
    """Match Reshape(Gemm(Reshape(data, [-1, features])), [*Shape(data)[:-1], vocabulary]); see `weight_layout`."""
    gemm = _producer_of_type(node.inputs[0], "Gemm")
    flat = _producer_of_type(gemm.inputs[0], "Reshape") if gemm is not None else None
    joined = _producer_of_type(node.inputs[1], "Concat")
    leading = _producer_of_type(joined.inputs[0], "Shape") if joined is not None and len(joined.inputs) == 2 else None
    if gemm is None or flat is None or leading is None:
        return None
    data, rows = flat.inputs[0], _constant(flat.inputs[1])
    right = (
        data is not None
        and _is_by_token(data)
        and leading.inputs[0] is data
        and leading.attributes.get_int("start", 0) == 0
        and leading.attributes.get_int("end", _ALL) in (-1, _RANK - 1)
        and rows is not None
        and rows.tolist() == [-1, cast("ir.Shape", data.shape)[-1]]
        and gemm.attributes.get_int("transA", 0) == 0
        and all(_is_weight(given) for given in gemm.inputs[1:])
        and all(len(each.outputs[0].uses()) == 1 for each in (gemm, flat, leading))
    )
    return (cast("ir.Value", data), [flat, leading]) if right else None


def _producer_of_type(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator and node.domain in ("", "ai.onnx") else None


def _constant(value: ir.Value | None) -> np.ndarray | None:
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def _is_weight(value: ir.Value | None) -> bool:
    """Return whether the value is a weight, or computed from weights only."""
    if value is None or value.is_initializer() or value.const_value is not None:
        return True
    node = value.producer()
    return node is not None and all(_is_weight(given) for given in node.inputs)


def _is_same_for_tokens(value: ir.Value | None) -> bool:
    """Return whether the value is a weight that is the same for every token."""
    if value is None or not _is_weight(value) or value.shape is None:
        return False
    return len(value.shape) < 2 or value.shape[-2] == 1


def _slice(model: ir.Model, data: ir.Value, users: list[ir.Node]) -> None:
    import onnx_ir as ir

    keep = ir.Value(
        name=NUM_LOGITS_TO_KEEP, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64),
        const_value=ir.tensor(np.array(0, np.int64), name=NUM_LOGITS_TO_KEEP),
    )  # fmt: skip
    model.graph.inputs.append(keep)
    model.graph.register_initializer(keep)  # an input with a default
    tape = ir.tape.Tape()
    # A slice from -N on; from -0 on is all of it.
    start = tape.op("Reshape", [tape.op("Neg", [keep]), _numbers(model, "shape", 1)])
    bounds = [start, _numbers(model, "end", _ALL), _numbers(model, "axis", 1)]
    kept = tape.op("Slice", [data, *bounds])
    for count, made in enumerate(tape.nodes):
        made.name = made.outputs[0].name = f"{NUM_LOGITS_TO_KEEP}.{count}"
    kept.shape, kept.type = _renamed(cast("ir.Shape", data.shape)), data.type
    before = data.producer()
    if before is not None:
        model.graph.insert_after(before, tape.nodes)
    else:
        model.graph.insert_before(model.graph[0], tape.nodes)
    for user in users:
        for index, value in enumerate(user.inputs):
            if value is data:
                user.replace_input_with(index, kept)
    # ONNX Runtime shares buffers between values of equally named shapes; these are smaller now.
    pending = list(users)
    while pending:
        node = pending.pop()
        for output in node.outputs:
            if output.shape is not None:
                output.shape = _renamed(output.shape)
            pending += output.consumers()


def _numbers(model: ir.Model, what: str, *numbers: int) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(np.array(numbers, np.int64), name=f"{NUM_LOGITS_TO_KEEP}.{what}")
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def _renamed(shape: ir.Shape) -> ir.Shape:
    import onnx_ir as ir

    sizes = [size if isinstance(size, int) else _name(size) for size in shape]
    return ir.Shape([_WORD.sub(NUM_LOGITS, size) if isinstance(size, str) else size for size in sizes])
