"""What a model's own code keeps between calls, put back after a call that must leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def state_kept(model: torch.nn.Module) -> Iterator[None]:
    """Undo changes of a model's state that the calls within it make.

    These are attributes, buffers, and entries of dicts and lists in attributes that modules set, replace or delete.

    A call on fake tensors leaves fake ones where a model caches what it computed (the rotary frequencies of longrope,
    say), and the next real call fails on them. Which attributes those are differs from model to model, so all of them
    are compared. Elements of tensors that the calls write are not undone.

    Example:
        >>> with state_kept(model):  # doctest: +SKIP
        ...     model(**fake_inputs)
    """
    before = [(held, held.copy()) for module in model.modules() for held in _containers(module)]
    try:
        yield
    finally:
        for held, entries in before:
            if _is_same(held, entries):
                continue
            held.clear()
            if isinstance(held, dict):
                held.update(entries)
            else:
                held.extend(entries)


def _containers(module: torch.nn.Module) -> list[Any]:
    """A module's attributes, and those among them that hold others: registered tensors, modules, caches."""
    attributes = vars(module)
    return [attributes, *(value for value in attributes.values() if type(value) in (dict, list))]


def _is_same(held: Any, entries: Any) -> bool:
    if len(held) != len(entries):
        return False
    if isinstance(held, dict):
        return all(name in held and held[name] is value for name, value in entries.items())
    return all(one is other for one, other in zip(held, entries, strict=True))
