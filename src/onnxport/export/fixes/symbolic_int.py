"""Keep symbolic sizes symbolic in `int(size)` and `len(tensor)` while tracing.

Upstream: `int()` of a `torch.SymInt` asks for its value, which makes the axis static at the traced size without need:
depth_anything (transformers 5.23) interpolates to `(int(patch_height * patch_size), ...)`. While tracing, the modules
that define the model use an `int` that returns symbolic sizes unchanged. The length of a convolution that is written
as `int((length - 127) / 64 + 1)` (moonshine, transformers 5.23) becomes the floor of an integer division. Both are
equal for lengths that are not shorter than the kernel. `torch_int(size)` of transformers calls `int`, and
`len(tensor)` asks for the value of its first size too (rt_detr, transformers 5.23).
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.export.fixes.replaced_builtin import replaced_builtin

if TYPE_CHECKING:
    import torch


class _IntMeta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, builtins.int)


class _Int(builtins.int, metaclass=_IntMeta):
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        import torch

        if len(args) == 1 and isinstance(args[0], torch.SymInt):
            return args[0]
        if len(args) == 1 and isinstance(args[0], torch.SymFloat):
            whole = _floor(args[0])
            return builtins.int(args[0]) if whole is None else whole
        return builtins.int(*args, **kwargs)


def _floor(number: Any) -> Any:
    """Return the floor of a symbolic quotient of integers as a symbolic integer; None for other expressions."""
    import sympy  # type: ignore[import-untyped]
    from torch.utils._sympy.functions import FloorDiv, IntTrueDiv, ToFloat

    node = number.node
    expression = node.expr.replace(IntTrueDiv, lambda p, q: p / q).replace(ToFloat, lambda value: value)
    above, below = sympy.fraction(sympy.together(sympy.nsimplify(expression, rational=True)))
    if not below.is_Integer or not above.is_integer:
        return None
    return node.shape_env.create_symintnode(FloorDiv(above, below), hint=builtins.int(node.hint))


@contextmanager
def symbolic_int(model: torch.nn.Module) -> Iterator[None]:
    """Replace `int` and `len` in the modules that define parts of `model`, and `int` in `torch_int`.

    Args:
        model: the module that is traced.
    """
    with replaced_builtin(model, "int", _Int, "transformers.utils.generic"), replaced_builtin(model, "len", _length):
        yield


def _length(value: Any) -> Any:
    """`len`, symbolic for tensors."""
    import torch

    return value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else builtins.len(value)
