"""The weights of two graphs: the same, moved, changed, quantized, added or removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from onnxport.formats.graph_file import GraphFile, Weight
from onnxport.verification.comparison.result import WeightChange

_QUANTIZED, _SCALE, _ZERO = "_quantized", "_scale", "_zero_point"  # what ONNX Runtime's quantizer adds to names
_PIECE = 2**22  # bytes that are read at a time


def compare_weights(a: GraphFile, b: GraphFile) -> tuple[list[Weight], list[WeightChange]]:
    """Weights of `a` that `b` has too, and what is different; weights of no elements are left out.

    Equal bytes under another name are the same weight, renamed.
    """
    left = {name: weight for name, weight in a.weights.items() if weight.length}
    right = {name: weight for name, weight in b.weights.items() if weight.length}
    same, changes = [], []
    for name in [name for name in left if name in right]:
        if _content(left[name]) == _content(right[name]):
            same.append(left.pop(name))
            del right[name]
    by_content = {_content(weight): weight for weight in right.values()}
    for name, weight in [*left.items()]:
        for how, content in (("renamed", _content(weight)), ("transposed", _transposed(weight))):
            found = by_content.get(content) if content is not None else None
            if found is not None and found.name in right:
                del left[name], right[found.name]
                if how == "renamed":
                    same.append(weight)
                changes.append(WeightChange(name, how, weight.shape, weight.dtype, 0.0, found.name))
                break
    changes += _quantized(left, right)
    for name in [name for name in left if name in right]:
        one, other = left.pop(name), right.pop(name)
        changes.append(WeightChange(name, "changed", one.shape, one.dtype, _error(one, other)))
    changes += [WeightChange(weight.name, "removed", weight.shape, weight.dtype) for weight in left.values()]
    changes += [WeightChange(weight.name, "added", weight.shape, weight.dtype) for weight in right.values()]
    return same, changes


def _quantized(left: dict[str, Weight], right: dict[str, Weight]) -> Iterator[WeightChange]:
    """Weights of one side that the other has in 8 bits; removes them from both."""
    for floats, whole in ((left, right), (right, left)):
        for name in [name for name in floats if name + _QUANTIZED in whole]:
            weight, stored = floats.pop(name), whole.pop(name + _QUANTIZED)
            scale, zero = whole.pop(name + _SCALE, None), whole.pop(name + _ZERO, None)
            error = None
            if scale is not None and stored.shape == weight.shape:
                error = _relative(weight.read(), _dequantized(stored, scale, zero))
            yield WeightChange(name, "quantized", weight.shape, weight.dtype, error, stored.name)


def _dequantized(stored: Weight, scale: Weight, zero: Weight | None) -> np.ndarray:
    values, factors = stored.read().astype(np.float32), scale.read().astype(np.float32)
    offsets = zero.read().astype(np.float32) if zero is not None else np.zeros_like(factors)
    if factors.size > 1:  # one for each output channel, which is the last axis of a product's weight
        axis = next(axis for axis in reversed(range(values.ndim)) if values.shape[axis] == factors.size)
        form = [1] * values.ndim
        form[axis] = factors.size
        factors, offsets = factors.reshape(form), offsets.reshape(form)
    return (values - offsets) * factors


def _error(one: Weight, other: Weight) -> float | None:
    if one.shape != other.shape or "type " in one.dtype + other.dtype:
        return None
    return _relative(one.read(), other.read())


def _relative(one: np.ndarray, other: np.ndarray) -> float:
    first, second = one.astype(np.float64), other.astype(np.float64)
    far, scale = float(np.abs(second - first).max(initial=0.0)), float(np.abs(first).max(initial=0.0))
    return far / scale if scale else far


def _content(weight: Weight) -> tuple[str, tuple[int, ...], str]:
    return weight.dtype, weight.shape, _digest(weight.read())


def _transposed(weight: Weight) -> tuple[str, tuple[int, ...], str] | None:
    if len(weight.shape) != 2 or weight.dtype.startswith("type "):
        return None
    turned = weight.read().T
    return weight.dtype, turned.shape, _digest(np.ascontiguousarray(turned))


def _digest(values: np.ndarray) -> str:
    digest, flat = hashlib.blake2b(digest_size=16), values.reshape(-1)
    step = max(_PIECE // max(values.itemsize, 1), 1)
    for start in range(0, flat.size, step):
        digest.update(flat[start : start + step].tobytes())
    return digest.hexdigest()
