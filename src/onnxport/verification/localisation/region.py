"""Which nodes of a graph can be the reason that its outputs are wrong?

A node is cleared when a value that depends on it is equal to a value of the source. What is left, and leads to a wrong
output, holds the fault; its first node is where the graph begins to differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from onnxport.formats.graph_file import GraphFile

# Of what these read only the size matters.
_SIZES = ("Shape", "Size")


class Region:
    """The nodes of a graph, by what depends on them.

    Args:
        graph: its nodes are in the order in which they run.
    """

    def __init__(self, graph: GraphFile) -> None:
        self.graph = graph
        self.producers = {name: place for place, node in enumerate(graph.nodes) for name in node.outputs if name}

    def before(self, values: Iterable[str]) -> set[int]:
        """Places of the nodes that `values` depend on, with those that give them."""
        found: set[int] = set()
        pending = [self.producers[name] for name in values if name in self.producers]
        while pending:
            place = pending.pop()
            if place in found:
                continue
            found.add(place)
            node = self.graph.nodes[place]
            if node.operator not in _SIZES:
                pending.extend(self.producers[name] for name in node.reads if name in self.producers)
        return found

    def suspects(self, wrong: Collection[str], right: Collection[str]) -> list[int]:
        """Nodes that lead to the outputs `wrong` and to none of the values `right`, in the order in which they run."""
        return sorted(self.before(wrong) - self.before(right))
