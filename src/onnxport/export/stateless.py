"""What no graph can be: a function that keeps a state, or draws random numbers."""

from __future__ import annotations

from typing import Any

from onnxport.errors import ExportError

_WRITING = ("Assign", "ResourceScatter")
_CHANCE = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip


def require_no_state(function: Any, architecture: str) -> None:
    """No variable that a traced function writes may have a part in its outputs: in ONNX every call is the first.

    Args:
        function: a ConcreteFunction of TensorFlow.

    Raises:
        ExportError: it does.
    """
    bodies = {body.signature.name: body.node_def for body in function.graph.as_graph_def().library.function}
    reached = _reached(function)
    writing, drawing, written = set[str](), set[str](), dict[str, str]()
    for operation in function.graph.get_operations():
        if operation.type.startswith(_WRITING):
            written |= {one.name: operation.type for one in operation.inputs if one.dtype.name == "resource"}
    for operation in reached:
        inside = _inside(operation.node_def, bodies)
        writing |= {name for name in inside if name.startswith(_WRITING)}
        drawing |= {name for name in inside if "Random" in name}
        writing |= {written[tensor.name] for tensor in operation.inputs if tensor.name in written}
    if writing and drawing:  # a generator remembers where it is
        raise _chance(drawing, architecture)
    if writing:
        raise ExportError(
            f"{architecture} writes to its own variables when it is run ({', '.join(sorted(writing))}): it keeps a "
            "state from call to call, which a graph cannot.",
            hint="Make the state an input and an output: for recurrent layers stateful=False, return_state=True and "
            "initial_state.",
        )


def _reached(function: Any) -> list[Any]:
    """Operations that have a part in the numbers of the outputs."""
    waiting, seen = [tensor.op for tensor in function.outputs], dict[str, Any]()
    while waiting:
        operation = waiting.pop()
        if operation.name not in seen:
            seen[operation.name] = operation
            waiting += [tensor.op for tensor in operation.inputs]
    return list(seen.values())


def _inside(node: Any, bodies: dict[str, Any]) -> set[str]:
    """Types of the operations that an operation stands for: its own, and those of the functions that it calls."""
    waiting, seen, found = [node], set[str](), set[str]()
    while waiting:
        node = waiting.pop()
        found.add(node.op)
        called = [node.op, *(value.func.name for value in node.attr.values() if value.HasField("func"))]
        called += [one.name for value in node.attr.values() for one in value.list.func]
        for name in called:
            if name in bodies and name not in seen:
                seen.add(name)
                waiting += bodies[name]
    return found


def require_deterministic(proto: Any, architecture: str) -> None:
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
        raise _chance(found, architecture)


def _chance(operators: set[str], architecture: str) -> ExportError:
    return ExportError(
        f"{architecture} draws random numbers when it is run ({', '.join(sorted(operators))}), so that no graph can be "
        "held against it.",
        hint="Make the random numbers an input of the model, or leave them out when it is not trained.",
    )
