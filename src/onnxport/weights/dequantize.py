"""Weights of quantized checkpoints as float32: `(number - zero point) * scale`, for the layouts of `packed_weights`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from onnxport.checkpoints.stored_parts import PackedWeight
from onnxport.weights.lazy import LazyTensor, record

# Numbers that are unpacked at once.
_AT_ONCE = 2**22
# The place of each column in a word of AWQ, which holds the columns 0 2 4 6 1 3 5 7, lowest bits first.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, eq=False)
class Dequantize:
    """An operator for records: the parts of a packed weight -> its values, float32 (outputs, inputs).

    Attributes:
        weight: says how it is packed.
    """

    weight: PackedWeight

    def __call__(self, *parts: torch.Tensor) -> torch.Tensor:
        """The values. Without memory for its arguments, only the result's shape and type."""
        return dequantized(self.weight, dict(zip(self.weight.parts, parts, strict=True)))

    def __str__(self) -> str:
        return f"onnxport.dequantized ({self.weight.layout}, {self.weight.bits} bits)"  # as operators of torch


def packed_record(weight: PackedWeight, part: Callable[[str], LazyTensor]) -> LazyTensor:
    """A packed weight as a record of its stored tensors.

    Args:
        weight: says how it is packed.
        part: returns a stored tensor by its name.
    """
    made: LazyTensor = record(Dequantize(weight), tuple(map(part, weight.parts.values())))
    return made


def dequantized(weight: PackedWeight, parts: dict[str, torch.Tensor], rows: int | None = None) -> torch.Tensor:
    """The values of a packed weight, float32 (outputs, inputs).

    Args:
        weight: says how it is packed.
        parts: its stored tensors.
        rows: number of outputs, from the first on; all by default.
    """
    outputs, inputs = weight.shape
    outputs = outputs if rows is None else rows
    device = parts["integers"].device
    values = torch.empty((outputs, inputs), dtype=torch.float32, device=device)
    if device.type == "meta":
        return values
    scales, zeros = scales_of(weight, parts), zeros_of(weight, parts)
    columns = parts["groups"].long() if "groups" in parts else torch.arange(inputs) // weight.block[1]
    step = max(_WORD_ROWS, _AT_ONCE // inputs // _WORD_ROWS * _WORD_ROWS)
    for begin in range(0, outputs, step):
        end = min(outputs, begin + step)
        of_row = torch.arange(begin, end) // weight.block[0]
        numbers = integers_of(weight, parts["integers"], begin, end)
        numbers = parts["codes"][numbers.long()] if "codes" in parts else numbers.to(torch.float32)
        if zeros is not None:
            numbers -= zeros[of_row][:, columns]
        values[begin:end] = numbers * scales[of_row][:, columns]
    return values


_WORD_ROWS = 32  # a multiple of the numbers in a word


def integers_of(weight: PackedWeight, stored: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """The numbers of the outputs `begin` to `end`, (outputs, inputs): of 0 to 2^bits - 1, of "plain" as stored."""
    per_word = 32 // weight.bits
    if weight.layout == "gptq":
        return _unpacked(stored[:, begin:end].t(), weight.bits)
    if weight.layout == "awq":
        columns = _unpacked(stored[:, begin // per_word : -(-end // per_word)], weight.bits, _AWQ_PLACES)
        return columns[:, : end - begin].t()  # begin is at the start of a word
    if weight.layout == "rows":
        return _unpacked(stored[begin:end], weight.bits)[:, : weight.shape[1]]
    if weight.layout == "codes":
        pairs = stored.reshape(weight.shape[0], -1)[begin:end]
        return torch.stack([pairs >> 4, pairs & 15], -1).reshape(end - begin, -1)
    return stored[begin:end]


def scales_of(weight: PackedWeight, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """The scales, float32 (blocks of outputs, blocks of inputs)."""
    stored = parts["scales"]
    if "scale_codes" in parts:
        outer = parts["outer_scales"].repeat_interleave(256)[: len(stored)]
        return (parts["scale_codes"][stored.long()] * outer + weight.scale_offset).reshape(weight.grid)
    oriented = stored.t() if weight.layout in ("gptq", "awq") else stored
    return oriented.to(torch.float32).reshape(weight.grid) * weight.scale_factor


def zeros_of(weight: PackedWeight, parts: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """The zero points, float32 in the shape of the scales; None where all are 0."""
    stored, middle = parts.get("zeros"), 2 ** (weight.bits - 1)
    if weight.layout == "rows":
        if stored is None:
            return torch.full(weight.grid, float(middle))
        if stored.dtype == torch.int8:
            return stored.to(torch.float32) + middle
        return _unpacked(stored.t(), weight.bits)[:, : weight.shape[0]].t().to(torch.float32)
    if stored is None:
        return None
    if weight.layout == "plain":
        return stored.to(torch.float32).reshape(weight.grid)
    places = _AWQ_PLACES if weight.layout == "awq" else None
    numbers = _unpacked(stored, weight.bits, places)[:, : weight.shape[0]]
    return numbers.t().to(torch.float32) + weight.zero_offset


def _unpacked(words: torch.Tensor, bits: int, places: tuple[int, ...] | None = None) -> torch.Tensor:
    """The numbers in the words of each row, lowest bits first; or from these places."""
    order = torch.tensor(places if places is not None else range(32 // bits), dtype=torch.int32)
    numbers = (words.unsqueeze(-1) >> (order * bits)) & (2**bits - 1)
    return numbers.reshape(len(words), -1)
