"""Refuse functions that cannot be a graph: those that keep state between calls, or draw random numbers."""

from __future__ import annotations

from typing import Any

from onnxport.errors import ExportError

_WRITES = ("Assign", "ResourceScatter")
_RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip


def require_no_state(function: Any, architecture: str) -> None:
    """Check that no variable that the function writes influences its outputs: every call of an ONNX graph is the first.

    Args:
        function: a ConcreteFunction of TensorFlow.
        architecture: name of the model, for errors.

    Raises:
        ExportError: the function keeps a state, or draws random numbers with a generator that has one.
    """
    bodies = {body.signature.name: body.node_def for body in function.graph.as_graph_def().library.function}
    reached = _operations_of_outputs(function)
    writes, random, written = set[str](), set[str](), dict[str, str]()
    for operation in function.graph.get_operations():
        if operation.type.startswith(_WRITES):
            written |= {one.name: operation.type for one in operation.inputs if one.dtype.name == "resource"}
    for operation in reached:
        inside = _operation_types(operation.node_def, bodies)
        writes |= {name for name in inside if name.startswith(_WRITES)}
        random |= {name for name in inside if "Random" in name}
        writes |= {written[tensor.name] for tensor in operation.inputs if tensor.name in written}
    if writes and random:  # a random generator stores its state
        raise _random_error(random, architecture)
    if writes:
        raise ExportError(
            f"{architecture} keeps a state between calls, which an ONNX graph cannot: it writes to its variables "
            f"({', '.join(sorted(writes))}).",
            hint="Make the state an input and an output: use stateful=False, return_state=True and initial_state in "
            "recurrent layers.",
        )


def _operations_of_outputs(function: Any) -> list[Any]:
    """Return the operations that the values of the outputs depend on."""
    waiting, seen = [tensor.op for tensor in function.outputs], dict[str, Any]()
    while waiting:
        operation = waiting.pop()
        if operation.name not in seen:
            seen[operation.name] = operation
            waiting += [tensor.op for tensor in operation.inputs]
    return list(seen.values())


def _operation_types(node: Any, bodies: dict[str, Any]) -> set[str]:
    """Return the types of an operation and of all operations in the functions that it calls."""
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
    """Check that a graph draws no random numbers: its outputs could not be verified.

    Random operators in branches are left to verification: TensorFlow 1 kept dropout in a branch that is not taken.

    Args:
        proto: a ModelProto.
        architecture: name of the model, for errors.

    Raises:
        ExportError: the graph draws random numbers.
    """

    def random_operators(graph: Any) -> set[str]:
        loops = (node for node in graph.node if node.op_type != "If")
        inner = (attribute.g for node in loops for attribute in node.attribute if attribute.HasField("g"))
        return {node.op_type for node in graph.node if node.op_type in _RANDOM}.union(*map(random_operators, inner))

    if found := random_operators(proto.graph):
        raise _random_error(found, architecture)


def _random_error(operators: set[str], architecture: str) -> ExportError:
    return ExportError(
        f"{architecture} draws random numbers ({', '.join(sorted(operators))}), so its outputs cannot be verified.",
        hint="Make the random numbers an input of the model, or remove them when the model is not trained.",
    )
