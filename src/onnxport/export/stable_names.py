"""Give nodes and values names that are the same for every conversion of the same model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from onnxport.graph.array_weight import ArrayWeight

if TYPE_CHECKING:
    import onnx_ir as ir

# tf2onnx numbers names across graphs, in the order of Python sets, and uses memory addresses in einsum names.
_ARBITRARY = re.compile(r"__\d+|(?<=einsum)\d+")


def _sort_by_outputs(graph: Any) -> None:
    """Sort nodes in the order in which outputs need them; the order of tf2onnx depends on its arbitrary names."""
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
            waiting.extend((value.producer(), False) for value in reversed(_all_inputs(node)) if value is not None)
    rest = [node for node in graph if node not in seen]
    graph.remove([*graph])
    graph.extend([*done, *rest])


def _all_inputs(node: ir.Node) -> list[ir.Value | None]:
    """Return the inputs of a node, with those of its subgraphs."""
    inner = [value for attribute in node.attributes.values() for value in _subgraph_inputs(attribute)]
    return [*node.inputs, *inner]


def _subgraph_inputs(attribute: ir.Attr) -> Iterator[ir.Value | None]:
    kind = attribute.type.name
    graphs: list[Any] = [attribute.value] if kind == "GRAPH" else list(attribute.value) if kind == "GRAPHS" else []
    for graph in graphs:
        for node in graph:
            yield from _all_inputs(node)
        yield from graph.outputs


def stabilize_names(model: ir.Model) -> None:
    """Rename, in place, what tf2onnx named arbitrarily.

    Nodes and their outputs keep the stable part of their names and get a number. A constant is named after the first
    node that reads it, because tf2onnx keeps an arbitrary one of several equal constants. Weights keep their names.

    Args:
        model: a graph from tf2onnx.
    """
    numbers = count(1)
    for graph in model.graphs():
        _sort_by_outputs(graph)

    def stable(name: str) -> str:
        plain = _ARBITRARY.sub("", name)
        return name if plain == name else f"{plain}__{next(numbers)}"

    for graph in model.graphs():
        outputs = set(graph.outputs)
        for node in graph:
            node.name = stable(node.name or "")
            for value in node.outputs:
                if value not in outputs:
                    value.name = stable(value.name or "")
        named = {}
        for node in graph:
            for index, value in enumerate(node.inputs):
                if value is not None and value.is_initializer() and value.graph is graph and value not in named:
                    keeps_name = isinstance(value.const_value, ArrayWeight) or value.is_graph_input()
                    named[value] = value.name if keeps_name else f"{node.name}.{index}"
        # read in a subgraph, or an output
        rest = [value for value in graph.initializers.values() if value not in named]
        graph.initializers.clear()
        for value, name in (*named.items(), *((value, stable(value.name or "")) for value in rest)):
            value.name = name
            graph.register_initializer(value)
