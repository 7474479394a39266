"""Values of packed weights for the ledger, apart from `dequantize`, which computes what is written.

Bytes are taken apart instead of words, whole matrices instead of strips; the formats are described in
`checkpoints.packed_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from onnxport.checkpoints.stored_parts import PackedWeight

Array = np.ndarray[Any, Any]
_AWQ_COLUMNS = [0, 2, 4, 6, 1, 3, 5, 7]  # in a word, lowest bits first


def dequantized_again(weight: PackedWeight, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The values of a packed weight, float32 (outputs, inputs).

    Args:
        weight: says how it is packed.
        parts: its stored tensors, by their roles.
    """
    outputs, inputs = weight.shape
    numbers = _numbers(weight, parts).astype(np.float32)
    zeros, scales = _zeros(weight, parts), _scales(weight, parts)
    rows = np.repeat(np.arange(scales.shape[0]), weight.block[0])[:outputs]
    columns = np.repeat(np.arange(scales.shape[1]), weight.block[1])[:inputs]
    if "groups" in parts:
        columns = parts["groups"].numpy()
    if zeros is not None:
        numbers = numbers - zeros.astype(np.float32)[np.ix_(rows, columns)]
    return torch.from_numpy(numbers * scales[np.ix_(rows, columns)])


def _numbers(weight: PackedWeight, parts: Mapping[str, torch.Tensor]) -> Array:
    stored, (outputs, inputs) = parts["integers"], weight.shape
    match weight.layout:
        case "gptq":
            return _fields(stored.numpy().T, weight.bits)
        case "awq":
            return _in_order(stored.numpy()).T
        case "rows":
            return _fields(stored.numpy(), weight.bits)[:, :inputs]
        case "codes":
            flat = stored.numpy().reshape(-1)
            numbers = np.empty(outputs * inputs, np.uint8)
            numbers[0::2], numbers[1::2] = flat >> 4, flat & 15
            found: Array = parts["codes"].numpy()[numbers].reshape(outputs, inputs)
            return found
        case _:
            return np.asarray(stored.float().numpy())


def _zeros(weight: PackedWeight, parts: Mapping[str, torch.Tensor]) -> Array | None:
    stored = parts.get("zeros")
    if weight.layout == "rows":
        middle = 1 << (weight.bits - 1)
        if stored is None:
            return np.full(weight.grid, middle)
        if stored.dtype == torch.int8:
            return np.asarray(stored.numpy().astype(np.int64) + middle)
        return np.asarray(_fields(stored.numpy().T, weight.bits).T[: weight.shape[0]])
    if stored is None:
        return None
    if weight.layout == "plain":
        return np.asarray(stored.numpy().reshape(weight.grid))
    numbers = _in_order(stored.numpy()) if weight.layout == "awq" else _fields(stored.numpy(), weight.bits)
    return np.asarray(numbers.T[: weight.shape[0]].astype(np.int64) + weight.zero_offset)


def _scales(weight: PackedWeight, parts: Mapping[str, torch.Tensor]) -> Array:
    stored = parts["scales"]
    if "scale_codes" in parts:
        codes = parts["scale_codes"].numpy()[stored.numpy()]
        outer = parts["outer_scales"].numpy()[np.arange(codes.size) // 256]
        return np.asarray(codes * outer + np.float32(weight.scale_offset)).reshape(weight.grid)
    plain = stored.float().numpy()
    oriented = plain.T if weight.layout in ("gptq", "awq") else plain
    return np.asarray(oriented.reshape(weight.grid) * np.float32(weight.scale_factor))


def _fields(words: Array, bits: int) -> Array:
    """The numbers of each row: those of a byte follow each other from the lowest bits on."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    numbers = np.empty((len(raw), raw.shape[1] * 8 // bits), np.uint8)
    for place in range(8 // bits):
        numbers[:, place :: 8 // bits] = (raw >> (bits * place)) & ((1 << bits) - 1)
    return numbers


def _in_order(words: Array) -> Array:
    """Numbers of 4 bits in words of AWQ."""
    numbers = _fields(words, 4).reshape(len(words), -1, 8)
    ordered = np.empty_like(numbers)
    ordered[:, :, _AWQ_COLUMNS] = numbers
    return ordered.reshape(len(words), -1)
