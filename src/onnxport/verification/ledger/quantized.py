"""Quantized weights against the weights that they stand for.

value = scale * (integer - zero point), and integer must be the nearest one that there is
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.formats.graph_tensors import FileTensor
from onnxport.graph.quantization.nf4 import BLOCK as LEVEL_BLOCK
from onnxport.graph.quantization.nf4 import DATA, LEVELS, SCALES, unpacked

Array = np.ndarray[Any, Any]
_BLOCK = 32
_BLOCKS = re.compile(r"(.+)\.q([48])")
_COLUMNS = "_quantized"
_NF4_BITS = 4
# Half a step, and what float32 rounds when it divides by the scale.
_HALF = 0.5 + 1e-3
# The largest integer of a column that is not zero: a scale that is too large would hide any error.
_LEAST_LEVEL = 7
_STRIP_ELEMENTS = 2**21


@dataclass(frozen=True)
class BlockNames:
    """The tensors of one quantized weight.

    Attributes:
        base: name of the weight that was quantized.
        data, scales: its integers and their scales.
        zeros: zero points, None where they are in the middle. Blocks with zero points are of a checkpoint.
        bits: 4 or 8 for blocks of values; None for int8 with a scale for each column.
        columns: the order of the inputs, None where it is the weight's.
    """

    base: str
    data: FileTensor
    scales: FileTensor
    zeros: FileTensor | None = None
    bits: int | None = None
    columns: FileTensor | None = None

    @property
    def has_levels(self) -> bool:
        """Whether the integers are numbers of levels."""
        return self.data.name.endswith(DATA)

    @property
    def is_kept(self) -> bool:
        """Whether the integers are those of a checkpoint, which stand for exactly the weight."""
        return self.bits is not None and self.zeros is not None


def quantized_parts(
    tensors: Sequence[FileTensor], known: Mapping[str, Sequence[FileTensor]]
) -> dict[str, BlockNames]:  # fmt: skip
    """The weights that were quantized when a graph was made, by the names of all their tensors.

    Args:
        tensors: of the graph.
        known: by name, weights of the graphs that it was made from. What was quantized there is a weight like others.
    """
    named = {tensor.name: tensor for tensor in tensors}
    found: dict[str, BlockNames] = {}
    for tensor in tensors:
        if any(one.dtype == tensor.dtype and one.shape == tensor.shape for one in known.get(tensor.name, ())):
            continue
        match = _BLOCKS.fullmatch(tensor.name)
        scales = named.get(f"{match[1]}.scales") or named.get(f"{match[1]}.scales.half") if match else None
        if match and match[1] in known and scales is not None:
            zeros, columns = (named.get(f"{match[1]}.{part}") for part in ("zeros", "columns"))
            parts = BlockNames(match[1], tensor, scales, zeros, int(match[2]), columns)
            found |= {one.name: parts for one in (tensor, parts.scales, zeros, columns) if one is not None}
        base = tensor.name.removesuffix(DATA)
        if base != tensor.name and base in known and f"{base}{SCALES}" in named:
            parts = BlockNames(base, tensor, named[f"{base}{SCALES}"], bits=_NF4_BITS)
            found |= dict.fromkeys((tensor.name, f"{base}{SCALES}"), parts)
        base = tensor.name.removesuffix(_COLUMNS)
        # A bias of a product on integers has the scale of that product, under a name of its own.
        own = next((one for one in (base, tensor.name) if f"{one}_scale" in named), None)
        if base != tensor.name and base in known and own is not None:
            parts = BlockNames(base, tensor, named[f"{own}_scale"], named.get(f"{own}_zero_point"))
            found |= dict.fromkeys((tensor.name, f"{own}_scale", f"{own}_zero_point"), parts)
    return found


def block_fault(names: BlockNames, base: FileTensor) -> tuple[str | None, float]:
    """(what is wrong, largest error) of a weight in blocks (`com.microsoft::MatMulNBits`)."""
    assert names.bits is not None
    weight, data, scales = base.array(), names.data.array(), names.scales.array()
    outputs, inputs = data.shape[0], data.shape[1] * _BLOCK
    layouts = [one for one in (weight, weight.T) if one.ndim == 2 and one.shape[0] == outputs
               and -(-one.shape[1] // _BLOCK) == data.shape[1]]  # fmt: skip
    zero = 1 << (names.bits - 1)
    # float16 rounds a scale, to zero if it is half of its smallest number.
    step_error, smallest = (2.0**-11, zero * 2.0**-25) if _fits_half(scales) else (1e-4, 1e-37)
    fault, error = f"{names.data.name} does not have the shape of {names.base}", float("nan")
    for rows in layouts:
        bad, error, first = 0, 0.0, -1
        step = max(1, _STRIP_ELEMENTS // inputs)
        for start in range(0, outputs, step):
            strip = np.zeros((min(step, outputs - start), inputs), np.float32)
            strip[:, : rows.shape[1]] = rows[start : start + step]
            blocks = strip.reshape(len(strip), -1, _BLOCK)
            integers = _unpacked(data[start : start + step], names.bits)
            scale = scales[start : start + step][..., None].astype(np.float64)
            wrong, distance = _far(blocks, integers, scale, zero, (0, 2 * zero - 1), smallest)
            # The value furthest from zero has the lowest integer: the step is as small as it can be.
            wide = np.abs(scale[..., 0]) * zero > np.abs(blocks).max(-1) * (1 + step_error) + smallest
            wrong |= wide[..., None]
            error = max(error, float(distance.max(initial=0)))
            bad += int(wrong.sum())
            if first < 0 and wrong.any():
                first = start + int(wrong.any((1, 2)).argmax())
        if not bad:
            return None, error
        fault = f"{names.data.name} is not {names.base} quantized: {bad:,} elements are too far away, from row {first}"
    return fault, error


def level_fault(names: BlockNames, base: FileTensor) -> tuple[str | None, float]:
    """(what is wrong, largest error) of a weight in levels of nf4 (`com.microsoft::MatMulBnb4`)."""
    weight, data, scales = base.array(), names.data.array(), names.scales.array()
    if data.size != -(-weight.size // 2) or scales.size != -(-weight.size // LEVEL_BLOCK):
        return f"{names.data.name} does not have the shape of {names.base}", float("nan")
    levels, factors = unpacked(data, weight.size), np.repeat(scales, LEVEL_BLOCK)[: weight.size]
    distance = np.zeros(0)
    for rows in (weight.T, weight):
        flat = np.ascontiguousarray(rows).reshape(-1)
        padded = np.zeros(scales.size * LEVEL_BLOCK, np.float32)
        padded[: flat.size] = np.abs(flat)
        share = np.divide(flat, factors, out=np.zeros_like(flat), where=factors != 0)
        between = (LEVELS[1:] + LEVELS[:-1]) / 2  # where a level ends and the next one begins
        low, high = np.searchsorted(between, share - 1e-4), np.searchsorted(between, share + 1e-4)
        distance = np.abs(LEVELS[levels] * factors - flat)
        if np.array_equal(padded.reshape(-1, LEVEL_BLOCK).max(-1), scales) and bool(
            ((low <= levels) & (levels <= high)).all()
        ):
            return None, float(distance.max(initial=0))
    return f"{names.data.name} is not {names.base} quantized", float(distance.max(initial=0))


def kept_fault(names: BlockNames, base: FileTensor) -> tuple[str | None, float]:
    """(what is wrong, 0) of a weight in blocks whose integers are a checkpoint's: every value must be equal."""
    assert names.bits is not None and names.zeros is not None
    weight, data, scales, zeros = base.array(), names.data.array(), names.scales.array(), names.zeros.array()
    outputs, count = scales.shape
    block = data.shape[2] * 8 // names.bits
    layouts = [one for one in (weight, weight.T) if one.ndim == 2 and one.shape[0] == outputs
               and -(-one.shape[1] // block) == count]  # fmt: skip
    step = max(1, _STRIP_ELEMENTS // (count * block))
    for rows in layouts:
        order = np.arange(rows.shape[1]) if names.columns is None else names.columns.array()
        if not np.array_equal(np.sort(order), np.arange(rows.shape[1])):
            continue
        for start in range(0, outputs, step):
            part = slice(start, start + step)
            zero = _unpacked(zeros[part], names.bits)[:, :count, None]
            values = (_unpacked(data[part], names.bits) - zero).astype(np.float32) * scales[part][..., None]
            if not np.array_equal(values.reshape(len(values), -1)[:, : rows.shape[1]], rows[part][:, order]):
                break
        else:
            return None, 0.0
    return f"the integers {names.data.name} do not stand for {names.base}", float("nan")


def column_fault(names: BlockNames, base: FileTensor) -> tuple[str | None, float]:
    """(what is wrong, largest error) of an int8 weight with one scale, or one for each index of one axis.

    A bias of 32 bits has the scale that its product has, however small it is.
    """
    return _column_fault(names, base.array())


def smoothed_fault(names: BlockNames, base: FileTensor, smoothing: FileTensor) -> tuple[str | None, float]:
    """The same of a weight whose rows were divided by `smoothing`, as its activation was multiplied by it."""
    weight, factors = base.array(), smoothing.array().reshape(-1, 1)
    fault: str | None = f"{smoothing.name} does not fit {names.base}"
    error = float("nan")
    if weight.ndim == 2:
        for rows, back in ((weight, False), (weight.T, True)):  # a Gemm may read the weight transposed
            if len(rows) == len(factors) and fault is not None:
                fault, error = _column_fault(names, (rows / factors).T if back else rows / factors)
    return fault, error


def _column_fault(names: BlockNames, weight: Array) -> tuple[str | None, float]:
    data, scales = names.data.array(), names.scales.array().reshape(-1)
    if weight.shape != data.shape:
        return f"{names.data.name} is {list(data.shape)}, and {names.base} is {list(weight.shape)}", float("nan")
    zeros = np.zeros(scales.shape, np.int64)
    if names.zeros is not None:
        zeros = names.zeros.array().reshape(-1).astype(np.int64)
    axes = [axis for axis in range(weight.ndim) if scales.size == weight.shape[axis]] if scales.size > 1 else [None]
    fault, error = f"{names.scales.name} does not fit {names.base}", float("nan")
    for axis in reversed(axes):
        bad, first, error = _compare_columns(weight, data, scales.astype(np.float64), zeros, axis)
        if not bad:
            return None, error
        place = [int(index) for index in np.unravel_index(first, weight.shape)]
        fault = (
            f"{names.data.name} is not {names.base} quantized: {bad:,} elements are too far away, the first at {place}"
        )
    return fault, error


def _compare_columns(
    weight: Array, data: Array, scales: Array, zeros: Array, axis: int | None
) -> tuple[int, int, float]:  # fmt: skip
    """(number of elements that are too far away, index of the first, largest error), strip by strip."""
    limits = int(np.iinfo(data.dtype).min), int(np.iinfo(data.dtype).max)
    bad, first, error = 0, -1, 0.0
    scales, zeros = np.atleast_1d(scales), np.atleast_1d(zeros)  # of a whole tensor both may be scalars
    count = scales.size if axis is not None else 1
    level, size = np.zeros(count, np.int64), np.zeros(count)
    step = max(1, _STRIP_ELEMENTS // max(1, weight[:1].size))
    for start in range(0, len(weight), step):
        part = slice(start, start + step) if axis == 0 else slice(None)
        shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
        scale, zero = scales[part].reshape(shape), zeros[part].reshape(shape)
        rows, integers = weight[start : start + step], data[start : start + step].astype(np.int64)
        wrong, distance = _far(rows, integers, scale, zero, limits)
        others = tuple(at for at in range(weight.ndim) if at != axis)
        for held, values in ((level, np.abs(integers - zero)), (size, np.abs(rows))):
            held[part] = np.maximum(held[part], values.max(others, initial=0))
        error = max(error, float(distance.max(initial=0)))
        if wrong.any():
            first = first if first >= 0 else start * weight[:1].size + int(wrong.reshape(-1).argmax())
            bad += int(wrong.sum())
    coarse = (level < _LEAST_LEVEL) & (size > 1e-30) & (data.dtype.itemsize == 1)
    if coarse.any() and not bad:
        bad, first = int(coarse.sum()), 0
    return bad, first, error


def _fits_half(scales: Array) -> bool:
    with np.errstate(over="ignore"):
        return scales.dtype == np.float16 or bool(np.array_equal(scales, scales.astype(np.float16)))


def _far(
    weight: Array, integers: Array, scale: Array, zero: Any, limits: tuple[int, int], smallest: float = 1e-37
) -> tuple[Array, Array]:
    """(which elements are not the nearest integer, distance of each element from its weight).

    A weight up to `smallest` may have a scale of zero.
    """
    values = (integers.astype(np.float64) - zero) * scale
    distance = np.abs(values - weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(scale == 0, zero, weight / scale + zero)
    off = np.abs(exact - integers) > _HALF
    off &= ~((integers == limits[0]) & (exact < limits[0])) & ~((integers == limits[1]) & (exact > limits[1]))
    return off | ((scale == 0) & (np.abs(weight) > smallest)), distance


def _unpacked(data: Array, bits: int) -> Array:
    if bits == 8:
        return data.astype(np.int64)
    low, high = data & 15, data >> 4
    return np.stack([low, high], -1).reshape(*data.shape[:-1], -1).astype(np.int64)
