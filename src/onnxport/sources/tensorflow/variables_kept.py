"""The variables of a TensorFlow model, put back after a call that must leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def variables_kept(variables: Sequence[Any]) -> Iterator[list[str]]:
    """Undo what calls within it write to variables: states of layers, counters, seeds of random generators.

    Nothing is copied: TensorFlow writes to another buffer while somebody holds the old one.

    Args:
        variables: of TensorFlow or Keras.

    Yields:
        Names of those that the calls changed, filled in at the end.
    """
    changed: list[str] = []
    # An optimizer, which a compiled model of Keras holds, can assign too, and has no value.
    variables = [one for one in variables if hasattr(one, "read_value") or hasattr(one, "value")]
    before = [_tensor(variable) for variable in variables]
    try:
        yield changed
    finally:
        for variable, old in zip(variables, before, strict=True):
            if not _same(old, _tensor(variable)):
                variable.assign(old)
                changed.append(str(getattr(variable, "path", None) or variable.name).removesuffix(":0"))


def _tensor(variable: Any) -> Any:
    """What a variable holds now, in its own buffer."""
    plain = variable if hasattr(variable, "read_value") else variable.value  # of Keras 3
    return plain.read_value() if hasattr(plain, "read_value") else plain


def _same(one: Any, other: Any) -> bool:
    if one is other or (_address(one) is not None and _address(one) == _address(other)):
        return True
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape:
        return False
    return first.tobytes() == second.tobytes() if first.dtype != object else bool(np.array_equal(first, second))


def _address(tensor: Any) -> int | None:
    """Where a tensor's numbers lie; None for types without a buffer."""
    if tensor.dtype.name == "string":
        return None
    try:
        return np.asarray(memoryview(tensor)).ctypes.data
    except (TypeError, ValueError, BufferError, NotImplementedError):
        return None
