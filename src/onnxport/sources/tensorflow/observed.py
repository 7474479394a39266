"""What the layers of a Keras model give in one run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np

from onnxport.sources.base import Arrays, ModuleOutput, named_leaves


class _Model(Protocol):
    """What is needed of a `TensorflowSource`."""

    def run(self, inputs: Arrays) -> Arrays: ...


def observed_layers(source: _Model, inputs: Arrays) -> list[ModuleOutput]:
    """What each Keras layer gave, in the order in which the calls ended; [] for a model without layers."""
    found: list[ModuleOutput] = []

    def ended(layer: Any, result: object) -> None:
        leaves = named_leaves(result, lambda leaf: hasattr(leaf, "numpy") and hasattr(leaf, "shape"))
        values = tuple(np.asarray(leaf.numpy()) for _, leaf in leaves)
        readable = tuple(value for value in values if value.dtype.kind in "biuf")
        path = getattr(layer, "path", None) or getattr(layer, "name", "")
        found.append(ModuleOutput(str(path), type(layer).__name__, readable))

    with ExitStack() as stack:
        for module in ("keras", "tf_keras"):
            if module in sys.modules:
                stack.enter_context(_watched(sys.modules[module].layers.Layer, ended))
        source.run(inputs)
    return found


@contextmanager
def _watched(layer_class: Any, ended: Callable[[Any, object], None]) -> Iterator[None]:
    original = layer_class.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        ended(self, result)
        return result

    layer_class.__call__ = call
    try:
        yield
    finally:
        layer_class.__call__ = original
