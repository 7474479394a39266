"""Arrays and ONNX Runtime's own buffers (`OrtValue`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_ort_value(array: Any, dtype: str) -> Any:
    """An OrtValue that holds an array as `dtype`; an OrtValue is returned as it is."""
    import onnxruntime

    if isinstance(array, onnxruntime.OrtValue):
        return array
    shaped = np.ascontiguousarray(array, dtype).reshape(np.shape(array))  # keeps the rank of a scalar
    return onnxruntime.OrtValue.ortvalue_from_numpy(shaped)


def to_array(value: Any) -> NDArray[Any]:
    """The array that an OrtValue holds; an array is returned as it is."""
    return value.numpy() if hasattr(value, "has_value") else np.asarray(value)  # type: ignore[no-any-return]


def select_rows(value: Any, rows: NDArray[np.int64]) -> Any:
    """A new OrtValue with these rows (axis 0) of `value`."""
    array = value.numpy()[rows]
    return to_ort_value(array, str(array.dtype))
