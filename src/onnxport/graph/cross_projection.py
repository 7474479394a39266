"""Move the key and value projections of the cross-attention from the encoder's graph into the decoder's.

onnxport's encoder graphs return these keys and values. Other run times (transformers.js) pass `last_hidden_state` to
the decoder, and return what its first call computed to the later calls. They need the projections in the decoder's
graph. The graph has no branch: it projects the encoder tokens beyond those whose keys and values are given. These are
all tokens in the first call, and none in later calls.
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
# Axis: number of encoder tokens whose keys and values are given.
PAST_AXIS = "past_encoder_sequence_length"

_PRESENT = re.compile(r"present\.\d+\.encoder\.(key|value)")
_END = 2**63 - 1
# No node of an exported graph has a name with this prefix.
_PREFIX = "cross."
# Indices of the axes of rows and tokens; equal if one axis holds both.
_TokenAxes = tuple[int, int]
_Sizes = list[int | str]


def move_projections(encoder: ir.Model, decoder: ir.Model, *, cached: bool = True) -> None:
    """Move nodes and weights between `last_hidden_state` and the cross-attention into the decoder, in place.

    Afterwards the encoder returns only `last_hidden_state`, (batch, tokens, width). The decoder takes it as
    `encoder_hidden_states`. Its inputs `past_key_values.N.encoder.key` and `.value` may have fewer tokens, and have
    none in the first call. `present.N.encoder.key` and `.value` hold the other tokens: (batch, heads, 0, features) once
    the past has all tokens.

    Args:
        encoder: a float32 or quantized graph as onnxport writes it.
        decoder: the decoder of the same model, with the same opset.
        cached: False for a run time that does not cache cross-attention. Its keys and values are then computed in every
            call and are no inputs and outputs; the decoder's own are `past_key_values.N.key` and `.value`, and
            `present.N.key` and `.value`.

    Raises:
        ExportError: the projections depend on more than `last_hidden_state`, or reshape it in an unknown way.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    outputs = {str(value.name): value for value in encoder.graph.outputs}
    hidden = outputs.get(HIDDEN)
    presents = {name: value for name, value in outputs.items() if _PRESENT.fullmatch(name)}
    others = sorted(outputs.keys() - presents.keys() - {HIDDEN})
    if hidden is None or not presents or others:
        found = f"unexpected outputs: {', '.join(others)}" if others else f"no {HIDDEN} or no keys and values"
        raise _not_supported(f"the encoder's graph has {found}")
    if any(decoder.opset_imports.get(domain, version) != version for domain, version in encoder.opset_imports.items()):
        raise _not_supported("encoder and decoder have different opsets")
    axes_of = _trace_token_axes(encoder.graph, hidden, list(presents.values()))
    try:
        cut = ir.convenience.extract(encoder.graph, [hidden], list(presents.values()))
    except ValueError as error:
        raise _not_supported(
            "keys and values of the cross-attention depend on more than these hidden states"
        ) from error
    _insert(decoder, cut, [axes_of[value] for value in presents.values()], cached)
    if not cached:
        for state in (*decoder.graph.inputs, *decoder.graph.outputs):
            state.name = str(state.name).replace(".decoder.", ".")
    decoder.opset_imports.update(encoder.opset_imports)
    encoder.graph.outputs[:] = [hidden]
    RemoveUnusedNodesPass()(encoder)


def _trace_token_axes(graph: ir.Graph, hidden: ir.Value, presents: Sequence[ir.Value]) -> dict[ir.Value, _TokenAxes]:
    """Make every Reshape between `hidden` and `presents` compute its sizes from `hidden`.

    Before, the sizes come from other inputs of the encoder, or are constants if the encoder has static shapes; and a
    size of -1 is undefined for 0 tokens.

    Returns:
        For each tensor on the way, the axes of rows and tokens.
    """
    needed = _nodes_between(hidden, presents)
    axes_of: dict[ir.Value, _TokenAxes] = {hidden: (0, 1)}
    for node in list(graph):
        source = next((value for value in node.inputs if value in axes_of), None)
        if node not in needed or source is None:
            continue
        token_axes = axes_of[source]
        if node.op_type == "Transpose":
            order = list(node.attributes["perm"].as_ints())
            token_axes = (order.index(token_axes[0]), order.index(token_axes[1]))
        elif node.op_type == "Reshape":
            token_axes = _reshape(graph, node, hidden, token_axes)
        for value in node.outputs:
            if value.shape is None or len(value.shape) > max(token_axes):  # skips the scalar scale of a quantization
                axes_of[value] = token_axes
    return axes_of


def _nodes_between(hidden: ir.Value, presents: Sequence[ir.Value]) -> set[ir.Node]:
    """Return the nodes from `hidden` to `presents`."""
    found: set[ir.Node] = set()
    waiting = list(presents)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            waiting += [value for value in node.inputs if value is not None and value is not hidden]
    return found


def _reshape(graph: ir.Graph, node: ir.Node, hidden: ir.Value, token_axes: _TokenAxes) -> _TokenAxes:
    """Compute the sizes of a Reshape from `hidden`; return the axes of rows and tokens of its result."""
    import onnx_ir as ir

    after = _sizes(node.outputs[0])
    found = _axes_after_reshape(_sizes(node.inputs[0]), after, _sizes(hidden)[:2], token_axes)
    if found is None or any(isinstance(size, str) for number, size in enumerate(after) if number not in found):
        raise _not_supported(f"the effect of {node.name or 'a Reshape'} on the axes of the hidden states is unknown")
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
    node.attributes["allowzero"] = ir.AttrInt64("allowzero", 1)  # a size of 0 means 0 tokens
    return found


def _axes_after_reshape(before: _Sizes, after: _Sizes, pair: _Sizes, token_axes: _TokenAxes) -> _TokenAxes | None:
    """Find rows and tokens after a Reshape: the same number of elements is before and after them as in the input.

    They may be two neighbouring axes, or one axis that holds both; a Reshape can convert one into the other.

    Args:
        before: sizes of the input.
        after: sizes of the result.
        pair: sizes of rows and tokens, in this order.
        token_axes: axes of rows and tokens of the input.

    Returns:
        Axes of rows and tokens of the result, or None if the Reshape splits them.
    """
    start, end = min(token_axes), max(token_axes) + 1
    if end - start > len(pair):
        return None
    if token_axes[0] != token_axes[1]:
        pair = before[start:end]  # one size may be written as two expressions
    for first in range(len(after)):
        for last in (first + 2, first + 1):
            whole = after[first:last] == pair if last - first == len(pair) else len(after) >= last
            if whole and _same_elements(after[:first], before[:start]) and _same_elements(after[last:], before[end:]):
                return (last - 1, first) if token_axes[0] > token_axes[1] else (first, last - 1)
    return None


def _insert(decoder: ir.Model, cut: ir.Graph, axes_of: Sequence[_TokenAxes], cached: bool) -> None:
    """Insert the projections before the decoder's nodes, instead of their results or next to them."""
    import onnx_ir as ir

    graph = decoder.graph
    given = {str(value.name): value for value in graph.inputs}
    names = [str(value.name) for value in cut.outputs]
    found = [given.get(past_name(name)) for name in names]
    if any(past is None for past in found) or len(found) != sum(".encoder." in name for name in given):
        raise _not_supported("encoder and decoder do not have the same layers")
    pasts = cast("list[ir.Value]", found)
    read = cut.inputs[0]
    sizes = [*(_sizes(pasts[0])[axis] for axis in axes_of[0]), _sizes(read)[2]]
    states = ir.Input(STATES, ir.Shape(sizes), ir.TensorType(cast("ir.DataType", read.dtype)))
    graph.inputs.append(states)
    begin = graph[0]
    made = _move_nodes(cut, graph)
    if not cached:
        read.replace_all_uses_with(states)
    else:
        token_axes = graph[0]
        known = ir.node("Shape", [pasts[0]], {"start": axes_of[0][1], "end": axes_of[0][1] + 1})
        ends, axes = _constant(graph, f"{_PREFIX}end", [_END]), _constant(graph, f"{_PREFIX}axis", [1])
        rest = ir.node("Slice", [states, _named(known, "known"), ends, axes])
        read.replace_all_uses_with(_named(rest, "beyond"))
    for name, value, past, (_, axis) in zip(names, made, pasts, axes_of, strict=True):
        if cached:
            graph.insert_before(begin, _append_to_past(graph, name, value, past, axis))
        else:
            past.replace_all_uses_with(value)
            graph.inputs.remove(past)
    if cached:
        known.replace_input_with(0, pasts[0])
        graph.insert_before(token_axes, [known, rest])


def _move_nodes(cut: ir.Graph, graph: ir.Graph) -> list[ir.Value]:
    """Move nodes and weights of `cut` to the start of `graph`; return the former outputs of `cut`."""
    for name, weight in sorted(cut.initializers.items()):  # the extractor keeps them in a set
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
            value.shape = None  # declared for all tokens, but here there may be fewer
    graph.insert_before(graph[0], nodes)
    return made


def _append_to_past(graph: ir.Graph, name: str, value: ir.Value, past: ir.Value, axis: int) -> ir.Node:
    """Return the node that appends the computed tokens to the past, for all nodes that read the past."""
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
    """Return the axes of a tensor: numbers and names.

    Raises:
        ExportError: the graph does not declare its shape.
    """
    shape = value.shape if value is not None else None
    if shape is None:
        raise _not_supported(
            f"the graph declares no shape for {value.name if value is not None else 'a missing input'}"
        )
    return [size if isinstance(size, int) else str(size.value) for size in shape]


def _same_elements(one: _Sizes, other: _Sizes) -> bool:
    """Return whether both shapes have the same number of elements."""
    numbers = [prod(size for size in sizes if isinstance(size, int)) for sizes in (one, other)]
    names = [sorted(size for size in sizes if isinstance(size, str)) for sizes in (one, other)]
    return numbers[0] == numbers[1] and names[0] == names[1]


def _not_supported(reason: str) -> ExportError:
    return ExportError(
        f"The decoder cannot compute its cross-attention from the encoder's hidden states: {reason}.",
        hint="onnxport run FOLDER, which does not need such a decoder.",
    )
