"""What normalizations of a graph add to the variance, against the modules that their weights belong to.

Such a number is an attribute and no weight, and outputs tell it only where a variance is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxport.errors import VerificationError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from onnxport.verification.ledger.expected import Expectations

_NAMES = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps")
_FLOAT32 = 1e-6  # a graph holds 32 bits of a number
_DEFAULT = 1e-5  # of ONNX, where a node does not say it


def require_epsilons(graph: ir.Model, expectations: Expectations, model: torch.nn.Module) -> None:
    """Compare every normalization whose scale is a parameter of one module.

    Args:
        graph: the finished graph.
        expectations: says which parameters its weights are made of.
        model: its source.

    Raises:
        VerificationError: the graph has another number than the module.
    """
    for parameters, operator, found in _in_graph(graph, expectations):
        wanted = _of_module(model, parameters.pop()) if len(parameters) == 1 else None
        if wanted is not None and not math.isclose(found, wanted[1], rel_tol=_FLOAT32):
            raise VerificationError(
                f"{operator} of {wanted[0]} adds {found:.7g} to the variance in the graph, and {wanted[1]:.7g} in the "
                "model.",
                hint="Report this model.",
            )


def _in_graph(graph: ir.Model, expectations: Expectations) -> Iterator[tuple[set[str], str, float]]:
    """(parameters that the scale is made of, operator, epsilon)."""
    for node in (node for one in graph.graphs() for node in one):
        if node.op_type.endswith("Normalization") and len(node.inputs) > 1 and node.inputs[1] is not None:
            epsilon = node.attributes.get_float("epsilon", _DEFAULT)
            yield expectations.used([str(node.inputs[1].name)]), node.op_type, epsilon
    for norm in expectations.history.norms.values():
        yield {norm.names[0]}, "BatchNormalization", norm.epsilon


def _of_module(model: torch.nn.Module, parameter: str) -> tuple[str, float] | None:
    """(path, epsilon) of the module that has a parameter."""
    path = parameter.rpartition(".")[0]
    try:
        module = model.get_submodule(path)
    except AttributeError:  # a value of the graph with a name of its own
        return None
    known = (getattr(module, name, None) for name in _NAMES)
    epsilon = next((value for value in known if isinstance(value, float)), None)
    return None if epsilon is None else (path, epsilon)
