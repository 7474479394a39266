"""One run of a TensorFlow model, and the same run over inputs and weights that differ in their last place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from onnxport.sources.base import Arrays
from onnxport.system.memory import require_memory


class _Model(Protocol):
    """What is needed of a `TensorflowSource`."""

    variables: list[Any]
    weight_bytes: int

    def run(self, inputs: Arrays) -> Arrays: ...


class TensorflowRun:
    """The outputs of a model, and the means to repeat the run.

    TensorFlow has no way to run a traced function in another type, and not all of its operators have float64.

    Attributes:
        outputs: as the model gives them.
        changed: nothing: a traced function keeps its state in variables.
    """

    changed: tuple[str, ...] = ()

    def __init__(self, source: _Model, inputs: Arrays) -> None:
        self._source, self._inputs = source, inputs
        self.outputs = source.run(inputs)

    def in_float64(self) -> Arrays:
        """Not known.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("TensorFlow's functions are traced in one type")

    def decided_otherwise(self, seed: int) -> None:
        """Not known: decisions in a TensorFlow function cannot be seen."""

    def perturbed(self, seed: int) -> Arrays:
        """The outputs with inputs and weights of float32 moved by one unit in the last place, up or down, or not.

        Raises:
            MemoryLimitError: there is no room for a copy of the weights.
        """
        rng = np.random.default_rng(seed)
        inputs = {name: moved(value, rng) for name, value in self._inputs.items()}
        with _weights_moved(self._source, rng):
            return self._source.run(inputs)


def moved(numbers: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Each float32 number, or the one below or above it; other types as they are."""
    if numbers.dtype != np.float32:
        return numbers
    way = rng.integers(-1, 2, numbers.shape, np.int8)
    towards = np.where(way == 0, numbers, np.where(way < 0, np.float32(-np.inf), np.float32(np.inf)))
    return np.asarray(np.nextafter(numbers, towards), np.float32)


@contextmanager
def _weights_moved(source: _Model, rng: np.random.Generator) -> Iterator[None]:
    require_memory(3 * source.weight_bytes, "Measuring how rounding moves the model's outputs", "")
    own = [(variable, variable.numpy()) for variable in source.variables]
    try:
        for variable, numbers in own:
            if numbers.dtype == np.float32:
                variable.assign(moved(numbers, rng))
        yield
    finally:
        for variable, numbers in own:
            if numbers.dtype == np.float32:
                variable.assign(numbers)
