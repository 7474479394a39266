"""`int(size)` in modelling code keeps a symbolic size symbolic.

Upstream: `int()` of a `torch.SymInt` asks for its value, which fixes the axis at the traced size
without need: depth_anything (5.23) interpolates to `(int(patch_height * patch_size), ...)`. While
tracing, the modules that define the model see an `int` that hands symbolic sizes back as they
are; sizes are integers already, so nothing is lost.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PREFIX = "transformers.models."


class _IntMeta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, builtins.int)


class _Int(builtins.int, metaclass=_IntMeta):
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        import torch

        if len(args) == 1 and isinstance(args[0], torch.SymInt):
            return args[0]
        return builtins.int(*args, **kwargs)


@contextmanager
def symbolic_int(model: torch.nn.Module) -> Iterator[None]:
    """Shadow `int` in the modules that define the parts of `model`."""
    names = {type(part).__module__ for part in model.modules()}
    modules = [sys.modules[name] for name in sorted(names) if name.startswith(_PREFIX)]
    patched = [module for module in modules if "int" not in vars(module)]
    for module in patched:
        module.int = _Int  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in patched:
            del module.int  # type: ignore[attr-defined]
