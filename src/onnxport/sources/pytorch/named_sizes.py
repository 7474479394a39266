"""The whole numbers that a PyTorch model names: in its config, in attributes of its modules, in the code of forward.

Among them are the sizes from which on a model does something else: windows, blocks, tables of positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING

from onnxport.sources.base import numbers_of

if TYPE_CHECKING:
    import torch

_LEAST_IN_CODE = 8  # smaller numbers in code are axes, ranks and factors


def named_sizes(model: torch.nn.Module) -> dict[int, str]:
    """Each positive number, and the first place that names it; a config's names come first.

    Example:
        >>> named_sizes(BertModel(BertConfig()))[512]  # doctest: +SKIP
        'max_position_embeddings'
    """
    found: dict[int, str] = {}
    for number, name in _all_numbers(model):
        if number > 0:
            found.setdefault(number, name)
    return found


def _all_numbers(model: torch.nn.Module) -> Iterator[tuple[int, str]]:
    yield from numbers_of(getattr(model, "config", {}))
    kinds: dict[type, None] = {}
    for module in model.modules():
        kind = type(module)
        if kind.__module__.startswith("torch."):
            continue
        kinds.setdefault(kind)
        for name, value in vars(module).items():
            if type(value) is int and not name.startswith("_"):
                yield value, name
    for kind in kinds:
        code = getattr(kind.forward, "__code__", None)
        if code is not None:
            yield from ((number, f"code of {kind.__name__}") for number in _constants(code))


def _constants(code: CodeType) -> Iterator[int]:
    for constant in code.co_consts:
        if type(constant) is int and constant >= _LEAST_IN_CODE:
            yield constant
        elif isinstance(constant, CodeType):
            yield from _constants(constant)
