"""Translations of operators on complex numbers that torch.onnx lacks.

Upstream (torch 2.13, onnxscript 0.7): torch.onnx writes complex numbers as real ones with a last axis of size two. It
has translations of 30 operators for them, but not of `unsqueeze`, `expand` and `select`: "No decompositions registered
for the complex-valued input". The rotary positions of llama4 are complex numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ComplexOperator:
    """What torch.onnx reads of an entry of onnxscript's table.

    Attributes:
        qualified_name: of the PyTorch operator.
        function: that makes the ONNX operators.
        is_complex: whether it is for complex arguments.
    """

    qualified_name: str
    function: Any
    is_complex: bool = True


def complex_operators() -> list[ComplexOperator]:
    """The translations, in the form of onnxscript's table."""
    from onnxscript.function_libs.torch_lib.ops import common, core
    from onnxscript.onnx_opset import opset18 as op

    def unsqueeze(self: Any, dim: int) -> Any:
        return op.Unsqueeze(self, [_before_parts(dim)])

    def select(self: Any, dim: int, index: int) -> Any:
        return op.Gather(self, index, axis=_before_parts(dim))

    def expand(self: Any, size: Sequence[Any], implicit: bool = False) -> Any:
        kept = [1 if isinstance(one, int) and one == -1 else one for one in size]
        return op.Expand(self, common.merge_dims([*kept, 2]))

    functions: dict[str, Callable[..., Any]] = {
        "aten::unsqueeze": unsqueeze,
        "aten::select.int": select,
        "aten::expand": expand,
    }
    return [
        ComplexOperator(name, _registered(name, function, core.TTensor, core.INT64))
        for name, function in functions.items()
    ]


def _registered(name: str, function: Callable[..., Any], tensor: Any, size: Any) -> Any:
    """The function as onnxscript registers its own: its parameters have onnxscript's types."""
    from onnxscript.function_libs.torch_lib.registration import Registry, torch_op

    types = {"self": tensor, "dim": int, "index": int, "size": Sequence[size], "implicit": bool}
    function.__annotations__ = {key: types[key] for key in function.__annotations__ if key in types}
    function.__annotations__["return"] = tensor
    return torch_op(name, registry=Registry(), trace_only=True, complex=True)(function)


def _before_parts(dim: int) -> int:
    """The same axis in front of the last one, which has the two parts of a number."""
    return dim - 1 if dim < 0 else dim
