"""Faults in Keras models and SavedModels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.planted.fault import NothingToPlantError
from benchmarks.planted.weight_edits import AlteredTensor, numbers


def _variable(source: Any, shape: tuple[int, ...]) -> Any:
    for owner in (source, getattr(source, "model", None), getattr(source, "function", None)):
        for name in ("variables", "weights", "trainable_variables"):
            for variable in list(getattr(owner, name, None) or ()):
                if tuple(variable.shape) == shape:
                    return variable
    raise NothingToPlantError(f"no variable of the shape {shape} in {type(source).__name__}: {sorted(vars(source))}")


def variable(shape: tuple[int, ...], factor: float) -> Callable[[Any], AbstractContextManager[None]]:
    """A variable has other numbers while the exporter sees it."""

    @contextmanager
    def plant(source: Any) -> Iterator[None]:
        found = _variable(source, shape)
        before = found.numpy()
        found.assign(before * factor)
        try:
            yield
        finally:
            found.assign(before)

    return plant


def loaded_variable(shape: tuple[int, ...], factor: float) -> Callable[[Any], None]:
    """A variable has one row other than the file's, for reference and graph."""

    def plant(to_export: Any) -> None:
        found = _variable(to_export.parts[0].source, shape)
        values = np.array(found.numpy())
        values[-1] *= factor
        found.assign(values)

    return plant


def recurrent_row(kind: str, index: int, row: int) -> Callable[[ir.Model], None]:
    """One row of a recurrent operator's input number `index`."""

    def plant(model: ir.Model) -> None:
        for node in model.graph:
            value = node.inputs[index] if node.op_type == kind and len(node.inputs) > index else None
            if value is not None and value.const_value is not None:
                changed = numbers(value)
                changed[0, row] *= 1.01
                value.const_value = AlteredTensor(value.const_value, changed)
                return
        raise NothingToPlantError(f"no {kind} with weights; {sorted({n.op_type for n in model.graph})}")

    return plant


def directions_exchanged(model: ir.Model) -> None:
    """The two directions of a recurrent layer read each other's weights."""
    found = [node for node in model.graph if node.op_type == "LSTM"]
    if len(found) == 1:
        for index in (1, 2, 3):
            value = found[0].inputs[index]
            if value is not None and value.const_value is not None and value.const_value.shape[0] == 2:
                value.const_value = AlteredTensor(value.const_value, numbers(value)[::-1].copy())
        return
    if len(found) < 2:
        raise NothingToPlantError("no LSTM in two directions")
    for index in (1, 2, 3):
        one, other = found[0].inputs[index], found[1].inputs[index]
        found[0].replace_input_with(index, other)
        found[1].replace_input_with(index, one)
