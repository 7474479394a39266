"""What no graph can be: a function that keeps a state, or draws random numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from onnxport.errors import ExportError

_CHANCE = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip


def require_no_state(function: Any, architecture: str) -> None:
    """A traced function must not write to its variables: ONNX has none, so that every call would be the first.

    Args:
        function: a ConcreteFunction of TensorFlow.

    Raises:
        ExportError: it does.
    """
    graph_def = function.graph.as_graph_def()
    bodies = {body.signature.name: body for body in graph_def.library.function}
    waiting, seen, writing = [*graph_def.node], set[str](), Counter[str]()
    while waiting:
        node = waiting.pop()
        if node.op.startswith(("Assign", "ResourceScatter")):
            writing[node.op] += 1
        called = [node.op, *(value.func.name for value in node.attr.values() if value.HasField("func"))]
        called += [one.name for value in node.attr.values() for one in value.list.func]
        for name in called:
            if name in bodies and name not in seen:
                seen.add(name)
                waiting += bodies[name].node_def
    if writing:
        raise ExportError(
            f"{architecture} writes to its own variables when it is run ({', '.join(sorted(writing))}): it keeps a "
            "state from call to call, which a graph cannot. Nothing was written.",
            hint="Make the state an input and an output: for recurrent layers stateful=False, return_state=True and "
            "initial_state.",
        )


def require_no_chance(proto: Any, architecture: str) -> None:
    """A graph must not draw random numbers: nobody could say whether they are right.

    Those of a branch are left to verification: TensorFlow 1 kept dropout in a branch that is not taken.

    Args:
        proto: a ModelProto.

    Raises:
        ExportError: it does.
    """

    def drawn(graph: Any) -> set[str]:
        loops = (node for node in graph.node if node.op_type != "If")
        inner = (attribute.g for node in loops for attribute in node.attribute if attribute.HasField("g"))
        return {node.op_type for node in graph.node if node.op_type in _CHANCE}.union(*map(drawn, inner))

    if found := drawn(proto.graph):
        raise ExportError(
            f"{architecture} draws random numbers when it is run ({', '.join(sorted(found))}), so that no graph can be "
            "held against it. Nothing was written.",
            hint="Make the random numbers an input of the model, or leave them out when it is not trained.",
        )
