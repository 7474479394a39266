"""Faults in the numbers of weights: in a finished graph in memory, or in what was written.

In memory a changed weight keeps the record of where it came from (`AlteredTensor`), as if the bytes had been read or
computed wrongly. In files the checksums that were computed on the way follow, as if the wrong bytes had been streamed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from benchmarks.planted.fault import NothingToPlantError
from benchmarks.planted.stages import Written, current

Change = Callable[[np.ndarray], np.ndarray]


class AlteredTensor(ir.Tensor):
    """Other numbers under the record of a weight."""

    def __init__(self, original: Any, values: np.ndarray) -> None:
        super().__init__(np.ascontiguousarray(values), dtype=original.dtype, name=original.name)
        for name in ("lazy", "source"):
            if hasattr(original, name):
                setattr(self, name, getattr(original, name))
        self._original = original

    @property
    def origin(self) -> Any:
        return self._original.origin


# Which numbers change


def element(index: tuple[int, ...], factor: float = 1.01, add: float = 0.0) -> Change:
    """One number."""

    def change(values: np.ndarray) -> np.ndarray:
        values[index] = values[index] * factor + add
        return values

    return change


def row(number: int, factor: float = 1.01, axis: int = 0) -> Change:
    """One row, or one index of another axis; counted from the end if negative."""

    def change(values: np.ndarray) -> np.ndarray:
        place: list[Any] = [slice(None)] * values.ndim
        place[axis] = number
        values[tuple(place)] *= factor
        return values

    return change


def zeroed(values: np.ndarray) -> np.ndarray:
    return np.zeros_like(values)


def transposed(values: np.ndarray) -> np.ndarray:
    return values.swapaxes(-1, -2).copy()


def rounded(bits: int) -> Change:
    """To floats with so many bits of mantissa: 10 is TensorFloat-32 and float16, 7 bfloat16."""

    def change(values: np.ndarray) -> np.ndarray:
        whole = values.astype(np.float32).view(np.uint32)
        cut = np.uint32(23 - bits)
        half = np.uint32(1) << (cut - np.uint32(1))
        return ((whole + half) >> cut << cut).view(np.float32).astype(values.dtype)

    return change


def reversed_rows(values: np.ndarray) -> np.ndarray:
    return values[::-1].copy()


def rolled(values: np.ndarray) -> np.ndarray:
    """Every row one place further."""
    return np.roll(values, 1, axis=0)


# In a graph in memory


def weights(model: ir.Model, pattern: str) -> list[ir.Value]:
    """Floating initializers whose name, or whose record of where they come from, matches.

    A weight that was folded has lost both: it is found by the numbers of the model's parameter.
    """
    floating = [
        (f"{name} {getattr(value.const_value, 'source', '')}", value)
        for graph in model.graphs()
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    ]
    found = [value for name, value in floating if re.search(pattern, name)]
    if not found:
        found = list(_of_parameter(pattern, [value for _, value in floating]))
    if not found:
        names = ", ".join(name for name, _ in floating)
        raise NothingToPlantError(f"no weight {pattern}; there are {names[:600]}")
    return found


def _of_parameter(pattern: str, values: list[ir.Value]) -> Iterator[ir.Value]:
    model = getattr(current.get("source"), "model", None)
    for name, tensor in model.named_parameters() if hasattr(model, "named_parameters") else ():
        if re.search(pattern, name):
            wanted = (tensor.detach() + 0).numpy()
            for value in values:
                given = numbers(value)
                if given.size == wanted.size and (_equal(given, wanted) or _equal(given, wanted.T)):
                    yield value


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(one.reshape(-1), other.reshape(-1)))


def numbers(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return np.array(value.const_value.numpy())


def alter(pattern: str, change: Change, all_of_them: bool = False) -> Callable[[ir.Model], None]:
    """Change the first weight that matches, or all that do."""

    def plant(model: ir.Model) -> None:
        for value in weights(model, pattern)[: None if all_of_them else 1]:
            value.const_value = AlteredTensor(value.const_value, change(numbers(value)))

    return plant


def alter_shape(shape: tuple[int, ...], change: Change) -> Callable[[ir.Model], None]:
    """Change the first weight of that shape, in any order of its axes: TensorFlow's have no names."""

    def plant(model: ir.Model) -> None:
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.dtype != ir.DataType.FLOAT:
                    continue
                if sorted(int(size) for size in tensor.shape) == sorted(shape):
                    value.const_value = AlteredTensor(tensor, change(numbers(value)))
                    return
        found = [tuple(v.const_value.shape) for g in model.graphs() for v in g.initializers.values() if v.const_value]
        raise NothingToPlantError(f"no weight of the shape {shape}; there are {found}")

    return plant


def replace(pattern: str, change: Change) -> Callable[[ir.Model], None]:
    """As `alter`; the record of where the weight came from is lost."""

    def plant(model: ir.Model) -> None:
        value = weights(model, pattern)[0]
        value.const_value = ir.tensor(change(numbers(value)), name=value.name)

    return plant


def swap(first: str, second: str) -> Callable[[ir.Model], None]:
    """Exchange two weights, with their records."""

    def plant(model: ir.Model) -> None:
        one, other = weights(model, first)[0], weights(model, second)[0]
        one.const_value, other.const_value = other.const_value, one.const_value

    return plant


def swap_numbers(first: str, second: str) -> Callable[[ir.Model], None]:
    """Exchange the numbers of two weights; the records stay."""

    def plant(model: ir.Model) -> None:
        one, other = weights(model, first)[0], weights(model, second)[0]
        values = numbers(one), numbers(other)
        one.const_value = AlteredTensor(one.const_value, values[1])
        other.const_value = AlteredTensor(other.const_value, values[0])

    return plant


# In files


def alter_written(pattern: str, change: Change, graph: int = 0) -> Callable[[Written], None]:
    """Change a weight in its file, and the checksums with it."""

    def plant(written: Written) -> None:
        model = written.models[graph]
        names = {value.name for value in weights(written.graphs[graph], pattern)}
        records = [one for one in model.weights if one.name in names]
        if not records:
            raise NothingToPlantError(f"no written weight {names}; there are {[one.name for one in model.weights]}")
        record = records[0]
        path = written.folder / record.file
        with path.open("r+b") as file:
            file.seek(record.offset)
            values = np.frombuffer(file.read(record.length), np.dtype(record.dtype)).reshape(record.shape)
            content = np.ascontiguousarray(change(values.copy())).tobytes()
            file.seek(record.offset)
            file.write(content)
        from onnxport.serialization import checksums

        corrected = dataclasses.replace(record, checksum=checksums.text(checksums.add(0, content)))
        known = {**model.sha256, path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        kept = tuple(corrected if one is record else one for one in model.weights)
        written.models[graph] = dataclasses.replace(model, weights=kept, sha256=known)

    return plant


def alter_embedded(pattern: str, change: Change, graph: int = 0) -> Callable[[Written], None]:
    """Change a small weight inside the written graph file, and the file's hash with it."""

    def plant(written: Written) -> None:
        model = written.models[graph]
        path = model.files[0]
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            if re.search(pattern, tensor.name) and not tensor.external_data:
                values = change(np.array(onnx.numpy_helper.to_array(tensor)))
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
                break
        else:
            raise NothingToPlantError(f"no weight {pattern} in the graph")
        path.write_bytes(proto.SerializeToString())
        known = {**model.sha256, path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        written.models[graph] = dataclasses.replace(model, sha256=known)

    return plant
