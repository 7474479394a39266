"""What a model's own code keeps between calls, put back after a call that must leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Registered tensors and modules have tables of their own among a module's attributes.
_TABLES = ("_buffers", "_modules")


@contextmanager
def state_kept(model: torch.nn.Module) -> Iterator[None]:
    """Undo what the calls within it change: attributes and buffers that modules set, replace or delete.

    A call on fake tensors leaves fake ones where a model caches what it computed (the rotary frequencies of longrope,
    say), and the next real call fails on them. Which attributes those are differs from model to model, so all of them
    are compared. Changes inside an object (an element of a tensor, an entry of a dict) are not undone.

    Example:
        >>> with state_kept(model):  # doctest: +SKIP
        ...     model(**fake_inputs)
    """
    before = [(table, dict(table)) for module in model.modules() for table in _tables(module)]
    try:
        yield
    finally:
        for table, entries in before:
            for name in table.keys() - entries.keys():
                del table[name]
            for name, value in entries.items():
                if name not in table or table[name] is not value:
                    table[name] = value


def _tables(module: torch.nn.Module) -> list[dict[str, Any]]:
    attributes = vars(module)
    return [attributes, *(attributes[name] for name in _TABLES)]
