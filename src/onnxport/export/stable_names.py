"""Names that are the same for the same model, whatever ran before in the process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from onnxport.graph.held_weight import HeldWeight

if TYPE_CHECKING:
    import onnx_ir as ir

# tf2onnx counts from graph to graph, in the order of Python's sets, and calls parts of an einsum by an address.
_CHANCE = re.compile(r"__\d+|(?<=einsum)\d+")


def _order(graph: Any) -> None:
    """Nodes in the order in which the outputs ask for them; tf2onnx's depends on the names that it made up."""
    done: list[ir.Node] = []
    seen: set[ir.Node] = set()
    for value in graph.outputs:
        waiting = [(value.producer(), False)]
        while waiting:
            node, ready = waiting.pop()
            if node is None or node.graph is not graph or (node in seen and not ready):
                continue
            if ready:
                done.append(node)
                continue
            seen.add(node)
            waiting.append((node, True))
            waiting.extend((value.producer(), False) for value in reversed(_read(node)) if value is not None)
    rest = [node for node in graph if node not in seen]
    graph.remove([*graph])
    graph.extend([*done, *rest])


def _read(node: ir.Node) -> list[ir.Value | None]:
    """What a node reads, in its subgraphs too."""
    inner = [value for attribute in node.attributes.values() for value in _read_inside(attribute)]
    return [*node.inputs, *inner]


def _read_inside(attribute: ir.Attr) -> Iterator[ir.Value | None]:
    graphs = {"GRAPH": lambda: [attribute.value], "GRAPHS": lambda: attribute.value}.get(attribute.type.name, list)()
    for graph in graphs:
        for node in graph:
            yield from _read(node)
        yield from graph.outputs


def settle_names(model: ir.Model) -> None:
    """Rename, in place, what tf2onnx named by chance.

    Nodes and their results keep what is not chance in their names, with a number. A constant is called by the node
    that reads it first: of several that are equal tf2onnx keeps one, by chance. Weights keep their names.
    """
    numbers = count(1)
    for graph in model.graphs():
        _order(graph)

    def settled(name: str) -> str:
        plain = _CHANCE.sub("", name)
        return name if plain == name else f"{plain}__{next(numbers)}"

    for graph in model.graphs():
        outputs = set(graph.outputs)
        for node in graph:
            node.name = settled(node.name or "")
            for value in node.outputs:
                if value not in outputs:
                    value.name = settled(value.name or "")
        named = {}
        for node in graph:
            for index, value in enumerate(node.inputs):
                if value is not None and value.is_initializer() and value.graph is graph and value not in named:
                    held = isinstance(value.const_value, HeldWeight) or value.is_graph_input()
                    named[value] = value.name if held else f"{node.name}.{index}"
        rest = [value for value in graph.initializers.values() if value not in named]  # read in a subgraph, or outputs
        graph.initializers.clear()
        for value, name in (*named.items(), *((value, settled(value.name or "")) for value in rest)):
            value.name = name
            graph.register_initializer(value)
