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


def move_projections(encoder: ir.Model, decoder: ir.Model) -> None:
    """Move the nodes and weights between `last_hidden_state` and the cross-attention into the decoder, in place.

    Afterwards the encoder's only output is `last_hidden_state`, (batch, tokens, width). The decoder also takes it, as
    `encoder_hidden_states`; its `past_key_values.N.encoder.key` and `.value` may have fewer tokens than it, and none
    at first. `present.N.encoder.key` and `.value` are those of the tokens beyond the past: (batch, heads, 0, features)
    once the past has them all.

    Args:
        encoder, decoder: float32 or quantized graphs as onnxport writes them, of the same opset.

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
    _insert(decoder, cut, [places[value] for value in presents.values()])
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


def _insert(decoder: ir.Model, cut: ir.Graph, places: Sequence[_Places]) -> None:
    """Put the projections in front of the decoder's nodes."""
    import onnx_ir as ir

    graph = decoder.graph
    given = {str(value.name): value for value in graph.inputs}
    names = [str(value.name) for value in cut.outputs]
    pasts = [given.get(name.replace("present.", "past_key_values.", 1)) for name in names]
    if any(past is None for past in pasts) or len(pasts) != sum(".encoder." in name for name in given):
        raise _refused("encoder and decoder do not have the same layers")
    first = graph[0]
    past = cast("list[ir.Value]", pasts)
    width = _sizes(cut.inputs[0])[2]
    shape = ir.Shape([*(_sizes(past[0])[axis] for axis in places[0]), width])
    states = ir.Input(STATES, shape, ir.TensorType(cast("ir.DataType", cut.inputs[0].dtype)))
    tokens = places[0][1]
    known = ir.node("Shape", [past[0]], {"start": tokens, "end": tokens + 1})
    ends = _constant(graph, f"{_PREFIX}end", [_END])
    axes = _constant(graph, f"{_PREFIX}axis", [1])
    rest = ir.node("Slice", [states, _named(known, "known"), ends, axes])
    beyond = _named(rest, "beyond")
    graph.insert_before(first, [known, rest])
    for name, value in list(cut.initializers.items()):
        cut.initializers.pop(name)
        value.name = _PREFIX + name
        graph.register_initializer(value)
    nodes = list(cut)
    cut.inputs[0].replace_all_uses_with(beyond)
    made = list(cut.outputs)
    cut.outputs.clear()
    cut.remove(nodes)
    for node in nodes:
        node.name = f"{_PREFIX}{node.name}"
        for value in node.outputs:
            value.name = f"{_PREFIX}{value.name}"
            value.shape = None  # those of the whole
    graph.insert_before(first, nodes)
    for name, value, old, (_, axis) in zip(names, made, past, places, strict=True):
        whole = ir.node("Concat", [old, value], {"axis": axis})
        joined = _named(whole, f"{name}.whole", old)
        old.replace_all_uses_with(joined)
        whole.replace_input_with(0, old)
        sizes = _sizes(old)
        sizes[axis] = PAST_AXIS
        old.shape = ir.Shape(sizes)
        graph.insert_before(first, whole)
        value.name, value.dtype = name, old.dtype
        sizes[axis] = f"{_sizes(joined)[axis]} - {PAST_AXIS}"
        value.shape = ir.Shape(sizes)
        graph.outputs.append(value)
    known.replace_input_with(0, past[0])
    graph.inputs.append(states)


def _named(node: ir.Node, name: str, like: ir.Value | None = None) -> ir.Value:
    value = node.outputs[0]
    value.name = _PREFIX + name
    node.name = f"{_PREFIX}node.{name}"
    if like is not None:
        value.shape, value.type = like.shape, like.type
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
        f"The decoder cannot compute its cross-attention from the encoder's hidden states: {reason}. "
        "Nothing was written.",
        hint="The folder as it is runs in onnxport: `onnxport run FOLDER`.",
    )
