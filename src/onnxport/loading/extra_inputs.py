"""Inputs that a model takes without listing them: `forward(..., **kwargs)` passes them on to the model inside.

A user's pipeline gives a model all that its tokenizer or processor makes. What the forward lists is an input of the
graph anyway. Of the rest it matters whether it changes the outputs; only running the model tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from onnxport.dummy_inputs.base import Arrays, InputGenerator, base_sizes

if TYPE_CHECKING:
    from onnxport.sources.pytorch.source import TorchSource


def extra_inputs(source: TorchSource, generator: Callable[[], InputGenerator]) -> tuple[str, ...]:
    """The inputs of a generator that the forward does not list, takes, and whose values change its outputs.

    Args:
        generator: gives one that makes all that the preprocessing makes.
    """
    listed = source.accepts()
    if listed is None or not source.takes_more():
        return ()
    try:
        everything = generator()
        made = everything.make(base_sizes(everything))
    except Exception:  # this preprocessing needs a list of what the model takes
        return ()
    given = {name: value for name, value in made.items() if name in listed}
    unlisted = [name for name in made if name not in listed]
    return tuple(name for name in unlisted if _matters(source, given, name, made[name]))


def _matters(source: TorchSource, given: Arrays, name: str, value: np.ndarray) -> bool:
    """Whether other values of an input give other outputs; False where the model refuses the input."""
    other = 1 - value if np.isin(value, (0, 1)).all() else np.flip(value).copy()
    try:
        with source.weights_kept():
            one, two = (source.run({**given, name: np.ascontiguousarray(v, value.dtype)}) for v in (value, other))
    except Exception:  # models refuse inputs with any exception
        return False
    return any(not np.array_equal(one[output], two[output], equal_nan=True) for output in one)
