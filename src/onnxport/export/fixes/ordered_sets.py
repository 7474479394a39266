"""Go through sets of names in the order of the alphabet while tracing.

Upstream: 25 models (ModernBERT, Gemma 3, Gemma 4; transformers 5.23) compute the rotary positions
`for layer_type in set(self.config.layer_types)`. Python hashes strings differently in every process, so the nodes of
the graph came in another order each time, and its bytes differed. While tracing, the modules that define the model use
a `set` that is iterated in order, and so are sets that the model keeps as attributes.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.export.fixes.replaced_builtin import replaced_builtin

if TYPE_CHECKING:
    import torch


class _SetMeta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, builtins.set)


class _Set(builtins.set[Any], metaclass=_SetMeta):
    def __iter__(self) -> Iterator[Any]:
        values = [*super().__iter__()]
        return iter(sorted(values) if all(isinstance(value, str) for value in values) else values)


@contextmanager
def ordered_sets(model: torch.nn.Module) -> Iterator[None]:
    """Iterate sets of strings in order: those that the code of `model` makes, and those that its parts keep.

    Args:
        model: the module that is traced.
    """
    kept = [
        (part, name, value)
        for part in model.modules()
        for name, value in vars(part).items()
        if not name.startswith("_") and type(value) is builtins.set and all(isinstance(one, str) for one in value)
    ]
    with replaced_builtin(model, "set", _Set):
        for part, name, value in kept:
            vars(part)[name] = _Set(value)
        try:
            yield
        finally:
            for part, name, value in kept:
                vars(part)[name] = value
