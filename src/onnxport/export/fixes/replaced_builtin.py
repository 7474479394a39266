"""Give the code of a model another meaning of a built-in name while it is traced."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PREFIX = "transformers.models."


@contextmanager
def replaced_builtin(model: torch.nn.Module, name: str, value: Any, *others: str) -> Iterator[None]:
    """Let `name` mean `value` in the modules of transformers that define parts of `model`.

    Args:
        model: the module that is traced.
        name: of a built-in, such as "int". A module that defines this name itself is left alone.
        value: what the name means there.
        others: modules where it means the same.
    """
    names = {type(part).__module__ for part in model.modules()}
    modules = [sys.modules[module] for module in sorted(names) if module.startswith(_PREFIX)]
    modules += [sys.modules[module] for module in others if module in sys.modules]
    patched = [module for module in modules if name not in vars(module)]
    for module in patched:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module in patched:
            delattr(module, name)
