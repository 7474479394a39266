"""A variable of a TensorFlow model before the export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.verification.ledger.arrays import Array


@dataclass(frozen=True)
class Variable:
    """A variable before the export.

    Attributes:
        name: its path, with a number where several have the same.
        variable: the variable.
        handle: id of its handle in TensorFlow's trace.
        sha256: of its bytes.
        stored: its tensor in the file that the model was loaded from; None where it was not found there.
    """

    name: str
    variable: Any
    handle: int | None
    sha256: str
    stored: str | None = None

    @property
    def array(self) -> Array:
        """Its values now."""
        return values_of(self.variable)


def values_of(variable: Any) -> Array:
    """The values of a variable of TensorFlow or Keras now."""
    tensor = variable.read_value() if hasattr(variable, "read_value") else variable
    tensor = tensor.value if hasattr(tensor, "value") and not hasattr(tensor, "numpy") else tensor
    return np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)
