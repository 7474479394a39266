"""An encoder-decoder whose decoder computes the cross-attention's keys and values from the encoder's hidden states.

Elsewhere in onnxport the encoder's graph ends in these keys and values. Run times that hand `last_hidden_state` to the
decoder instead, and give back what its first call made of it (transformers.js), need the projections in the
decoder's graph. There is no branch in it: the projections run on what lies beyond the keys and values that are
given, which is all of it in the first call and nothing afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, cast

import numpy as np

from onnxport.errors import ExportError
from onnxport.tensor_names import past_name

if TYPE_CHECKING:
    import onnx_ir as ir

HIDDEN, STATES = "last_hidden_state", "encoder_hidden_states"
# How many tokens of the encoder are in the keys and values that are given.
PAST_AXIS = "past_encoder_sequence_length"

_PRESENT = re.compile(r"present\.\d+\.encoder\.(key|value)")
_END = 2**63 - 1
# A name that no node of a graph has.
_PREFIX = "cross."
# Rows and tokens of a tensor: the numbers of these axes; the same where they are one.
_Places = tuple[int, int]
_Sizes = list[int | str]


def move_projections(encoder: ir.Model, decoder: ir.Model, *, cached: bool = True) -> None:
    """Move the nodes and weights between `last_hidden_state` and the cross-attention into the decoder, in place.

    Afterwards the encoder's only output is `last_hidden_state`, (batch, tokens, width). The decoder also takes it, as
    `encoder_hidden_states`; its `past_key_values.N.encoder.key` and `.value` may have fewer tokens than it, and none
    at first. `present.N.encoder.key` and `.value` are those of the tokens beyond the past: (batch, heads, 0, features)
    once the past has them all.

    Args:
        encoder, decoder: float32 or quantized graphs as onnxport writes them, of the same opset.
        cached: False for a run time that keeps no cross-attention: then its keys and values are no inputs and no
            outputs, but made in every call, and the decoder's own are `past_key_values.N.key` and `.value`, and
            `present.N.key` and `.value`.

    Raises:
        ExportError: they depend on more than `last_hidden_state`, or on its size in a way that is not understood.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    outputs = {str(value.name): value for value in encoder.graph.outputs}
    hidden = outputs.get(HIDDEN)
    presents = {name: value for name, value in outputs.items() if _PRESENT.fullmatch(name)}
    others = sorted(outputs.keys() - presents.keys() - {HIDDEN})
    if hidden is None or not presents or others:
        raise _refused(f"its outputs are not those of an encoder ({', '.join(others) or 'no hidden states'})")
    if any(decoder.opset_imports.get(domain, version) != version for domain, version in encoder.opset_imports.items()):
        raise _refused("encoder and decoder have different opsets")
    places = _free_of_sizes(encoder.graph, hidden, list(presents.values()))
    try:
        cut = ir.convenience.extract(encoder.graph, [hidden], list(presents.values()))
    except ValueError as error:
        raise _refused("keys and values of the cross-attention depend on more than its hidden states") from error
    _insert(decoder, cut, [places[value] for value in presents.values()], cached)
    if not cached:
        for state in (*decoder.graph.inputs, *decoder.graph.outputs):
            state.name = str(state.name).replace(".decoder.", ".")
    decoder.opset_imports.update(encoder.opset_imports)
    encoder.graph.outputs[:] = [hidden]
    RemoveUnusedNodesPass()(encoder)


def _free_of_sizes(graph: ir.Graph, hidden: ir.Value, presents: Sequence[ir.Value]) -> dict[ir.Value, _Places]:
    """Let every Reshape between `hidden` and `presents` read its sizes from `hidden`, whatever it read before.

    They come from other inputs of the encoder, or are numbers where the encoder has one size; and a size of -1
    cannot be found where there are no tokens.

    Returns:
        Where rows and tokens are in each of the tensors between.
    """
    needed = _between(hidden, presents)
    places: dict[ir.Value, _Places] = {hidden: (0, 1)}
    for node in list(graph):
        source = next((value for value in node.inputs if value in places), None)
        if node not in needed or source is None:
            continue
        at = places[source]
        if node.op_type == "Transpose":
            order = list(node.attributes["perm"].as_ints())
            at = (order.index(at[0]), order.index(at[1]))
        elif node.op_type == "Reshape":
            at = _reshape(graph, node, hidden, at)
        for value in node.outputs:
            if value.shape is None or len(value.shape) > max(at):  # not the scale that a quantization gives
                places[value] = at
    return places


def _between(hidden: ir.Value, presents: Sequence[ir.Value]) -> set[ir.Node]:
    """Nodes that `presents` are made by, up to `hidden`."""
    found: set[ir.Node] = set()
    waiting = list(presents)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            waiting += [value for value in node.inputs if value is not None and value is not hidden]
    return found


def _reshape(graph: ir.Graph, node: ir.Node, hidden: ir.Value, at: _Places) -> _Places:
    """Give the Reshape its sizes anew; where rows and tokens are in what it makes."""
    import onnx_ir as ir

    after = _sizes(node.outputs[0])
    found = _through(_sizes(node.inputs[0]), after, _sizes(hidden)[:2], at)
    if found is None or any(isinstance(size, str) for number, size in enumerate(after) if number not in found):
        raise _refused(f"what {node.name or 'a Reshape'} does to the hidden states is not understood")
    name = str(node.outputs[0].name)
    made: list[ir.Node] = [ir.node("Shape", [hidden], {"start": axis, "end": axis + 1}) for axis in (0, 1)]
    rows, tokens = (_named(each, f"{name}.{what}") for each, what in zip(made, ("rows", "tokens"), strict=True))
    moving = {found[0]: rows, found[1]: tokens}
    if found[0] == found[1]:
        made.append(ir.node("Mul", [rows, tokens]))
        moving = {found[0]: _named(made[-1], f"{name}.both")}
    parts = [
        moving[number] if number in moving else _constant(graph, f"{_PREFIX}{name}.size_{number}", [size])
        for number, size in enumerate(after)
    ]
    made.append(ir.node("Concat", parts, {"axis": 0}))
    graph.insert_before(node, made)
    node.replace_input_with(1, _named(made[-1], f"{name}.sizes"))
    node.attributes["allowzero"] = ir.AttrInt64("allowzero", 1)  # 0 tokens are 0 tokens
    return found


def _through(before: _Sizes, after: _Sizes, pair: _Sizes, at: _Places) -> _Places | None:
    """Where rows and tokens are after a Reshape: as much comes before them, and behind them, as before.

    They may be two neighbours, or one axis that holds both; a Reshape may make the one of the other.

    Args:
        pair: how many rows and tokens there are, in this order.

    Returns:
        None where they are cut otherwise.
    """
    start, end = min(at), max(at) + 1
    if end - start > len(pair):
        return None
    if at[0] != at[1]:
        pair = before[start:end]  # one size may be written in two ways
    for first in range(len(after)):
        for last in (first + 2, first + 1):
            whole = after[first:last] == pair if last - first == len(pair) else len(after) >= last
            if whole and _same(after[:first], before[:start]) and _same(after[last:], before[end:]):
                return (last - 1, first) if at[0] > at[1] else (first, last - 1)
    return None


def _insert(decoder: ir.Model, cut: ir.Graph, places: Sequence[_Places], cached: bool) -> None:
    """Put the projections in front of the decoder's nodes, instead of their results or beside them."""
    import onnx_ir as ir

    graph = decoder.graph
    given = {str(value.name): value for value in graph.inputs}
    names = [str(value.name) for value in cut.outputs]
    found = [given.get(past_name(name)) for name in names]
    if any(past is None for past in found) or len(found) != sum(".encoder." in name for name in given):
        raise _refused("encoder and decoder do not have the same layers")
    pasts = cast("list[ir.Value]", found)
    read = cut.inputs[0]
    sizes = [*(_sizes(pasts[0])[axis] for axis in places[0]), _sizes(read)[2]]
    states = ir.Input(STATES, ir.Shape(sizes), ir.TensorType(cast("ir.DataType", read.dtype)))
    graph.inputs.append(states)
    begin = graph[0]
    made = _move_nodes(cut, graph)
    if not cached:
        read.replace_all_uses_with(states)
    else:
        at = graph[0]
        known = ir.node("Shape", [pasts[0]], {"start": places[0][1], "end": places[0][1] + 1})
        ends, axes = _constant(graph, f"{_PREFIX}end", [_END]), _constant(graph, f"{_PREFIX}axis", [1])
        rest = ir.node("Slice", [states, _named(known, "known"), ends, axes])
        read.replace_all_uses_with(_named(rest, "beyond"))
    for name, value, past, (_, axis) in zip(names, made, pasts, places, strict=True):
        if cached:
            graph.insert_before(begin, _join(graph, name, value, past, axis))
        else:
            past.replace_all_uses_with(value)
            graph.inputs.remove(past)
    if cached:
        known.replace_input_with(0, pasts[0])
        graph.insert_before(at, [known, rest])


def _move_nodes(cut: ir.Graph, graph: ir.Graph) -> list[ir.Value]:
    """Nodes and weights of `cut`, in front of those of `graph`; what were its outputs."""
    for name, weight in list(cut.initializers.items()):
        cut.initializers.pop(name)
        weight.name = _PREFIX + name
        graph.register_initializer(weight)
    made, nodes = list(cut.outputs), list(cut)
    cut.outputs.clear()
    cut.remove(nodes)
    for node in nodes:
        node.name = f"{_PREFIX}{node.name}"
        for value in node.outputs:
            value.name = f"{_PREFIX}{value.name}"
            value.shape = None  # those of the whole, and here there may be less
    graph.insert_before(graph[0], nodes)
    return made


def _join(graph: ir.Graph, name: str, value: ir.Value, past: ir.Value, axis: int) -> ir.Node:
    """The node that puts what was computed behind the past, for all who read the past."""
    import onnx_ir as ir

    whole = ir.node("Concat", [value, value], {"axis": axis})
    joined = _named(whole, f"{name}.whole")
    joined.shape, joined.type = past.shape, past.type
    past.replace_all_uses_with(joined)
    whole.replace_input_with(0, past)
    sizes = _sizes(past)
    total, sizes[axis] = sizes[axis], PAST_AXIS
    past.shape = ir.Shape(sizes)
    sizes[axis] = f"{total} - {PAST_AXIS}"
    value.name, value.type, value.shape = name, past.type, ir.Shape(sizes)
    graph.outputs.append(value)
    return whole


def _named(node: ir.Node, name: str) -> ir.Value:
    value = node.outputs[0]
    value.name = _PREFIX + name
    node.name = f"{_PREFIX}node.{name}"
    return value


def _constant(graph: ir.Graph, name: str, numbers: Sequence[int | str]) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(np.array(numbers, np.int64), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _sizes(value: ir.Value | None) -> _Sizes:
    """The axes of a tensor: numbers and names.

    Raises:
        ExportError: they are not in the graph.
    """
    shape = value.shape if value is not None else None
    if shape is None:
        raise _refused("it does not say what sizes its tensors have")
    return [size if isinstance(size, int) else str(size.value) for size in shape]


def _same(one: _Sizes, other: _Sizes) -> bool:
    """Whether both are the same number of elements."""
    numbers = [prod(size for size in sizes if isinstance(size, int)) for sizes in (one, other)]
    names = [sorted(size for size in sizes if isinstance(size, str)) for sizes in (one, other)]
    return numbers[0] == numbers[1] and names[0] == names[1]


def _refused(reason: str) -> ExportError:
    return ExportError(
        f"The decoder cannot compute its cross-attention from the encoder's hidden states: {reason}.",
        hint="The folder as it is runs in onnxport: `onnxport run FOLDER`.",
    )
