"""Move the padding of each row behind its real tokens, as GroupQueryAttention requires.

GroupQueryAttention does not support padding before a token: a row is a number of cached tokens, followed by new
tokens. The graph therefore sorts the tokens of a call by the mask on entry, and moves the results back to the
caller's positions on exit. A row of the cache then holds only its real tokens, from index 0 on; their number also
follows from the mask. Any mask is allowed, and each row may have another length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.graph.fusion.attention_layers import NotFusedError

if TYPE_CHECKING:
    import onnx_ir as ir

_TOKENS, _MASK = "input_ids", "attention_mask"
_INT64, _INT32, _BOOL = 7, 6, 9
_END = 2**62


@dataclass
class PackedRows:
    """Values that all attention layers read, computed once.

    Attributes:
        lengths: (rows,) int32: tokens of each row after the call, minus one.
        new: (rows,) int32: real tokens of the call.
        total: scalar int32: columns of the mask.
        indices: (rows, tokens, 1) int64: where each of the caller's tokens was moved to.
    """

    lengths: ir.Value
    new: ir.Value
    total: ir.Value
    indices: ir.Value


class _NewNodes:
    """Nodes and int64 constants that are named `packed_rows.*` and inserted at the start of a graph."""

    def __init__(self) -> None:
        import onnx_ir as ir

        self._tape = ir.tape.Tape()
        self._constants: list[ir.Value] = []

    def op(self, operator: str, inputs: list[Any], attributes: dict[str, Any] | None = None) -> ir.Value:
        return self._tape.op(operator, inputs, attributes)

    def constant(self, values: list[int] | int) -> ir.Value:
        import onnx_ir as ir

        tensor = ir.tensor(np.array(values, np.int64), name=f"packed_rows.{len(self._constants)}")
        self._constants.append(self._tape.initializer(tensor))
        return self._constants[-1]

    def insert(self, graph: ir.Graph) -> None:
        for index, node in enumerate(self._tape.nodes):
            node.name = node.outputs[0].name = f"packed_rows.node_{index}"
        for value in self._constants:
            graph.register_initializer(value)
        graph.insert_before(graph[0], self._tape.nodes)


def pack_rows(model: ir.Model) -> PackedRows:
    """Sort the inputs that have a value per token, in place: real tokens first, padding behind them.

    Args:
        model: the graph of a decoder.

    Raises:
        NotFusedError: the graph has no mask, or an input that cannot be sorted.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    by_token = _inputs_by_token(inputs)
    users = {str(value.name): list(value.uses()) for value in by_token}
    nodes = _NewNodes()
    rows, indices = _row_layout(nodes, inputs[_TOKENS], inputs[_MASK])
    packed = [nodes.op("ScatterElements", [value, indices, value], {"axis": 1}) for value in by_token]
    result = PackedRows(
        nodes.op("Cast", [rows.lengths], {"to": _INT32}),
        nodes.op("Cast", [rows.new], {"to": _INT32}),
        nodes.op("Cast", [rows.total], {"to": _INT32}),
        nodes.op("Unsqueeze", [indices, nodes.constant([-1])]),
    )
    nodes.insert(model.graph)
    for value, packed_value in zip(by_token, packed, strict=True):
        packed_value.shape, packed_value.type = value.shape, value.type
        for node, index in users[str(value.name)]:
            if node.op_type != "Shape":
                node.replace_input_with(index, packed_value)
    return result


def _inputs_by_token(inputs: dict[str, ir.Value]) -> list[ir.Value]:
    """Return the inputs of shape (rows, tokens)."""
    if _TOKENS not in inputs or _MASK not in inputs:
        raise NotFusedError(f"the graph has no input {_MASK if _TOKENS in inputs else _TOKENS}")
    found = [value for value in inputs.values() if _is_by_token(value, inputs[_TOKENS])]
    wide = next((value for value in found if value.shape is not None and len(value.shape) > 2), None)
    if wide is not None:
        raise NotFusedError(f"the input {wide.name} has features for every token")
    return found


@dataclass(frozen=True)
class _RowLayout:
    """As in `PackedRows`, in int64."""

    lengths: ir.Value
    new: ir.Value
    total: ir.Value


def _row_layout(nodes: _NewNodes, ids: ir.Value, mask: ir.Value) -> tuple[_RowLayout, ir.Value]:
    """Compute row lengths, and where each token goes, (rows, tokens), from the mask."""
    zero, one, axis = nodes.constant(0), nodes.constant(1), nodes.constant([1])
    real = nodes.op("Cast", [nodes.op("Cast", [mask], {"to": _BOOL})], {"to": _INT64})
    tokens = nodes.op("Shape", [ids], {"start": 1, "end": 2})
    chunk = nodes.op("Slice", [real, nodes.op("Neg", [tokens]), nodes.constant([_END]), axis])
    all_real = nodes.op("ReduceSum", [real, axis], {"keepdims": 0})
    new_real = nodes.op("ReduceSum", [chunk, axis], {"keepdims": 1})
    # A row without a real token uses one of its padding tokens; its first real token will overwrite that.
    none = nodes.op("Equal", [all_real, zero])
    new = nodes.op("Where", [none, one, nodes.op("Squeeze", [new_real, axis])])
    lengths = nodes.op("Sub", [nodes.op("Max", [all_real, one]), one])
    total = nodes.op("Squeeze", [nodes.op("Shape", [mask], {"start": 1, "end": 2})])
    behind = nodes.op("Add", [new_real, nodes.op("CumSum", [nodes.op("Sub", [one, chunk]), one])])
    count = nodes.op("Where", [nodes.op("Cast", [chunk], {"to": _BOOL}), nodes.op("CumSum", [chunk, one]), behind])
    return _RowLayout(lengths, new, total), nodes.op("Sub", [count, one])


def restore_rows(model: ir.Model, rows: PackedRows) -> None:
    """Move results back to the caller's positions, at the narrowest tensor between the last layer and the logits.

    Args:
        model: the graph, in place.
        rows: the result of `pack_rows`.

    Raises:
        NotFusedError: no tensor (rows, tokens, features) leads only to the logits.
    """
    import onnx_ir as ir

    hidden = _narrowest_by_token(model)
    users = list(hidden.uses())
    gather = ir.node("GatherND", [hidden, rows.indices], {"batch_dims": 1}, name="packed_rows.restore")
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
        for node, index in users:
            if node is not gather and node.op_type != "Shape":
                node.replace_input_with(index, restored)


def _narrowest_by_token(model: ir.Model) -> ir.Value:
    """Follow the logits back and return the (rows, tokens, features) tensor with the fewest features."""
    logits = next((value for value in model.graph.outputs if value.name == "logits"), None)
    tokens = next(value for value in model.graph.inputs if value.name == _TOKENS)
    best: tuple[int, ir.Value] | None = None
    value = logits
    while value is not None:
        if value is not logits and sum(user.op_type != "Shape" for user in value.consumers()) != 1:
            break  # another node reads it too, for example the residual beside a norm
        if _is_by_token(value, tokens) and value.shape is not None and len(value.shape) == 3:
            size = value.shape[2]
            if isinstance(size, int) and (best is None or size < best[0]):
                best = size, value
        value = _main_input(value.producer())
    if best is None:
        raise NotFusedError("the logits are not computed token by token")
    return best[1]


def _is_by_token(value: ir.Value, tokens: ir.Value) -> bool:
    """Return whether the first axes are the rows and tokens of a call."""
    if value.shape is None or tokens.shape is None or len(value.shape) < 2:
        return False
    return [str(size) for size in value.shape[:2]] == [str(size) for size in tokens.shape[:2]]


def _main_input(node: ir.Node | None) -> ir.Value | None:
    """Return the only computed input of a node, or the tensor that a Slice or Reshape with a computed size reads."""
    if node is None:
        return None
    computed = [given for given in node.inputs if given is not None and _is_computed(given)]
    if len(computed) == 1:
        return computed[0]
    rearranges = node.op_type in ("Slice", "Gather", "Reshape", "Expand", "Squeeze", "Unsqueeze")
    return computed[0] if rearranges and computed else None


def _is_computed(value: ir.Value) -> bool:
    return value.const_value is None and not value.is_graph_input()
