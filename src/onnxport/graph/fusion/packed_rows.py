"""Rows without holes: the real tokens of a call first, padding behind them.

GroupQueryAttention knows no padding before a token: a row is as many cached tokens, then as many new
ones. So the graph sorts the tokens of a call on entry, by the mask, and puts the results back where the
caller's tokens were. A row's cache then holds its real tokens only, from place 0 on; how many follows
from the mask too. Any mask is allowed, and each row may have another length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.fusion.attention_layers import NotFusedError

if TYPE_CHECKING:
    import onnx_ir as ir

_TOKENS, _MASK = "input_ids", "attention_mask"
_INT64, _INT32, _BOOL = 7, 6, 9


@dataclass
class Rows:
    """What the attention needs to know, each computed once.

    Attributes:
        lengths: (rows,) int32: tokens of each row after the call, less one.
        new: (rows,) int32: real tokens of the call.
        total: scalar int32: columns of the mask.
        places: (rows, tokens, 1) int64: where each of the caller's tokens went.
    """

    lengths: ir.Value
    new: ir.Value
    total: ir.Value
    places: ir.Value


def pack_rows(model: ir.Model) -> Rows:
    """Sort what the graph gets token by token, in place.

    Raises:
        NotFusedError: it has no mask, or an input that cannot be sorted.
    """
    import onnx_ir as ir

    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    if _TOKENS not in inputs or _MASK not in inputs:
        raise NotFusedError("it has no attention_mask")
    sorted_inputs = [value for name, value in inputs.items() if _by_token(value, inputs[_TOKENS])]
    if any(value.shape is not None and len(value.shape) > 2 for value in sorted_inputs):
        raise NotFusedError("an input has features for every token")
    users = {str(value.name): list(value.uses()) for value in sorted_inputs}
    tape = ir.tape.Tape()

    def number(values: list[int] | int) -> ir.Value:
        name = f"packed_rows.{len(made)}"
        tensor = ir.tensor(np.array(values, np.int64), name=name)
        made.append(tape.initializer(tensor))
        return made[-1]

    made: list[ir.Value] = []
    zero, one, axis = number(0), number(1), number([1])
    ids = inputs[_TOKENS]
    real = tape.op("Cast", [tape.op("Cast", [inputs[_MASK]], {"to": _BOOL})], {"to": _INT64})
    tokens = tape.op("Shape", [ids], {"start": 1, "end": 2})
    chunk = tape.op("Slice", [real, tape.op("Neg", [tokens]), number([2**62]), axis])
    all_real = tape.op("ReduceSum", [real, axis], {"keepdims": 0})
    new_real = tape.op("ReduceSum", [chunk, axis], {"keepdims": 1})
    # A row that has no token yet takes one of its padding, at a place that its first token will have.
    none = tape.op("Equal", [all_real, zero])
    new = tape.op("Where", [none, one, tape.op("Squeeze", [new_real, axis])])
    lengths = tape.op("Sub", [tape.op("Max", [all_real, one]), one])
    total = tape.op("Squeeze", [tape.op("Shape", [inputs[_MASK]], {"start": 1, "end": 2})])
    behind = tape.op("Add", [new_real, tape.op("CumSum", [tape.op("Sub", [one, chunk]), one])])
    count = tape.op("Where", [tape.op("Cast", [chunk], {"to": _BOOL}), tape.op("CumSum", [chunk, one]), behind])
    places = tape.op("Sub", [count, one])
    packed = [tape.op("ScatterElements", [value, places, value], {"axis": 1}) for value in sorted_inputs]
    rows = Rows(
        tape.op("Cast", [lengths], {"to": _INT32}),
        tape.op("Cast", [new], {"to": _INT32}),
        tape.op("Cast", [total], {"to": _INT32}),
        tape.op("Unsqueeze", [places, number([-1])]),
    )
    for place, node in enumerate(tape.nodes):
        node.name = node.outputs[0].name = f"packed_rows.node_{place}"
    for value in made:
        graph.register_initializer(value)
    for value, sorted_value in zip(sorted_inputs, packed, strict=True):
        sorted_value.shape, sorted_value.type = value.shape, value.type
        for node, place in users[str(value.name)]:
            if node.op_type != "Shape":
                node.replace_input_with(place, sorted_value)
    first = next(iter(graph), None)
    if first is None:
        raise NotFusedError("it is empty")
    graph.insert_before(first, tape.nodes)
    return rows


def restore_rows(model: ir.Model, rows: Rows) -> None:
    """Put the results back: the last value that has features for every token, before the vocabulary.

    Raises:
        NotFusedError: no such value leads to the logits alone.
    """
    import onnx_ir as ir

    logits = next((value for value in model.graph.outputs if value.name == "logits"), None)
    tokens = next(value for value in model.graph.inputs if value.name == _TOKENS)
    best, value = None, logits
    while value is not None:
        if value is not logits and sum(user.op_type != "Shape" for user in value.consumers()) != 1:
            break  # the residual beside a norm, for example
        if _by_token(value, tokens) and value.shape is not None and len(value.shape) == 3:
            size = value.shape[2]
            if isinstance(size, int) and (best is None or size < best[0]):
                best = size, value
        node = value.producer()
        changing = [] if node is None else [given for given in node.inputs if given is not None and _computed(given)]
        value = changing[0] if len(changing) == 1 else _data(node, changing)
    if best is None:
        raise NotFusedError("its logits are not made token by token")
    hidden = best[1]
    users = list(hidden.uses())
    gather = ir.node("GatherND", [hidden, rows.places], {"batch_dims": 1}, name="packed_rows.restore")
    restored = gather.outputs[0]
    restored.shape, restored.type = hidden.shape, hidden.type
    producer = hidden.producer()
    assert producer is not None
    model.graph.insert_after(producer, gather)
    if hidden.is_graph_output():
        name, hidden.name = hidden.name, "packed_rows.before"
        restored.name = name
        ir.convenience.replace_all_uses_with(hidden, restored, replace_graph_outputs=True)
        gather.replace_input_with(0, hidden)
    else:
        restored.name = "packed_rows.restored"
        for node, place in users:
            if node is not gather and node.op_type != "Shape":
                node.replace_input_with(place, restored)


def _by_token(value: ir.Value, tokens: ir.Value) -> bool:
    """Whether its first axes are rows and tokens of a call."""
    if value.shape is None or tokens.shape is None or len(value.shape) < 2:
        return False
    return [str(size) for size in value.shape[:2]] == [str(size) for size in tokens.shape[:2]]


def _computed(value: ir.Value) -> bool:
    return value.const_value is None and not value.is_graph_input()


def _data(node: ir.Node | None, changing: list[ir.Value]) -> ir.Value | None:
    """The tensor that a Slice, Gather or Reshape with a computed size works on."""
    moves = ("Slice", "Gather", "Reshape", "Expand", "Squeeze", "Unsqueeze")
    return changing[0] if node is not None and node.op_type in moves and changing else None
