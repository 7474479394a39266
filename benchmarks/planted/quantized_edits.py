"""Faults in quantized graphs, as if they had been computed wrongly: checksums follow."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from benchmarks.planted.fault import NothingToPlantError
from benchmarks.planted.stages import Written

Change = Callable[[np.ndarray], np.ndarray]


def _graph(written: Written) -> Path:
    return Path(written.models[0].files[0]) if written.models else sorted(written.folder.glob("*quantized.onnx"))[0]


def _change(written: Written, ends: tuple[str, ...], change: Change, last: bool = False) -> None:
    path = _graph(written)
    proto = onnx.load(path)
    found = [tensor for tensor in proto.graph.initializer if tensor.name.endswith(ends)]
    if not found:
        names = [tensor.name for tensor in proto.graph.initializer]
        raise NothingToPlantError(f"no weight ends in {ends}: {', '.join(names)[:400]}")
    tensor = found[-1 if last else 0]
    values = change(np.array(onnx.numpy_helper.to_array(tensor)))
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path.write_bytes(proto.SerializeToString())
    if written.models:
        from onnxport.serialization import checksums

        model = written.models[0]
        known = {**model.sha256, path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        checksum = checksums.text(checksums.add(0, values.tobytes()))
        kept = tuple(
            dataclasses.replace(one, checksum=checksum) if one.name == tensor.name else one for one in model.weights
        )
        written.models[0] = dataclasses.replace(model, sha256=known, weights=kept)


def scale(factor: float) -> Callable[[Written], None]:
    """The scale of one weight, or of its first column."""

    def change(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1)
        flat[0] *= factor
        return flat.reshape(values.shape)

    return lambda written: _change(written, ("_scale",), change)


def zero_point(written: Written) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1)
        flat[0] += 1
        return flat.reshape(values.shape)

    _change(written, ("_zero_point",), change)


def column_zero(written: Written) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        values[..., -1] = 0
        return values

    _change(written, ("_quantized",), change)


def flip(written: Written) -> None:
    """A bit in the middle of the graph file."""
    path = _graph(written)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def block_scale(factor: float, last: bool = False) -> Callable[[Written], None]:
    def change(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1)
        flat[-1 if last else 0] *= factor
        return flat.reshape(values.shape)

    return lambda written: _change(written, (".scales",), change, last)


def blocks_exchanged(written: Written) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        values[[0, 1]] = values[[1, 0]]
        return values

    _change(written, _DATA, change)


def nibble(written: Written) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1)
        flat[-1] ^= 0x10
        return flat.reshape(values.shape)

    _change(written, _DATA, change, last=True)


_DATA = (".q4", ".q8")
