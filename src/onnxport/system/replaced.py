"""Replace an attribute of a module, a class or an object for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let `owner.name` be `value` within the block; what it was before comes back, also after an error.

    Args:
        owner: a module, a class or an object that has the attribute.
        name: of the attribute.
        value: what it is within the block.

    Example:
        >>> import math
        >>> with replaced(math, "pi", 3):
        ...     math.pi
        3
        >>> math.pi > 3
        True
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
