"""Compute what an exported program computes from constants alone with an operator that torch.onnx cannot translate.

Upstream (torch 2.13): ONNX has no inverse error function, "No ONNX function found for prims.erf_inv". gemma3n takes it
of a number of its config, in every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def compute_known_values(program: torch.export.ExportedProgram, translated: set[Any]) -> None:
    """Put numbers in the place of operators without a translation that read nothing but numbers, in place.

    Args:
        program: an exported program.
        translated: operators that torch.onnx has a translation for.
    """
    import torch

    graph = program.graph_module.graph
    replaced = False
    for node in list(graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload) or node.target in translated:
            continue
        value = _value(node, program)
        if value is None or value.numel() != 1 or value.is_complex():
            continue
        number = torch.ops.aten.full.default
        with graph.inserting_before(node):
            known = graph.call_function(number, (list(value.shape), value.item()), {"dtype": value.dtype})
        known.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(known)
        graph.erase_node(node)
        replaced = True
    if replaced:
        program.graph_module.recompile()


def _value(node: Any, program: torch.export.ExportedProgram) -> torch.Tensor | None:
    """The value of a node that depends on constants of the program alone; None if it depends on anything else."""
    import torch

    known: dict[Any, Any] = {}
    for one in _before(node):
        if one.op == "placeholder":
            name = program.graph_signature.inputs_to_lifted_tensor_constants.get(one.name)
            value = program.constants.get(name) if name is not None else None
            if not isinstance(value, torch.Tensor) or isinstance(value, torch._subclasses.FakeTensor):
                return None
            known[one] = value
        elif one.target is torch.ops.aten.detach_.default:  # of a constant that the trace has made
            known[one] = known[one.args[0]]
        elif isinstance(one.target, torch._ops.OpOverload) and not one.target._schema.is_mutable:
            arguments = torch.fx.map_arg((one.args, one.kwargs), known.__getitem__)
            known[one] = one.target(*arguments[0], **arguments[1])
        else:
            return None
    value = known[node]
    return value if isinstance(value, torch.Tensor) else None


def _before(node: Any) -> Iterator[Any]:
    """A node and all that it depends on, each after what it depends on itself."""
    seen: set[Any] = set()
    waiting = [(node, False)]
    while waiting:
        one, ready = waiting.pop()
        if ready:
            yield one
        elif one not in seen:
            seen.add(one)
            waiting.append((one, True))
            waiting += [(other, False) for other in one.all_input_nodes]
