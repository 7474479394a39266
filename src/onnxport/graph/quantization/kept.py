"""Weights in blocks with the integers, scales and zero points that a checkpoint stores: nothing is rounded again.

A weight of a graph is known by its values: those of its first output must be what the checkpoint's integers stand for.
`com.microsoft::MatMulNBits` takes blocks of 16, 32, 64 ... inputs. A larger group of a checkpoint becomes several
blocks with the same scale. Where the groups are in the order of activations (GPTQ's desc_act), the inputs of the
product are brought into that order first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx_ir as ir
import torch

from onnxport.checkpoints.stored_parts import PackedWeight
from onnxport.graph.quantization.kept_blocks import KeptBlocks, parts_of, zero_points
from onnxport.graph.quantization.weight_only import (
    DOMAIN,
    FLOAT_ACTIVATIONS,
    QuantizableWeight,
    find_weights,
    replace_weight,
)
from onnxport.weights.dequantize import dequantized

if TYPE_CHECKING:
    from onnxport.weights.checkpoint_reader import CheckpointReader

Array = np.ndarray[Any, Any]
_LEAST_BLOCK, _MOST_BLOCK = 16, 128


def keep_integers(model: ir.Model, reader: CheckpointReader, bits: int) -> int:
    """Replace weights by the blocks that the checkpoint has for them, in place; other weights stay as they are.

    Args:
        model: a float32 graph of the checkpoint's dequantized weights.
        reader: reads the checkpoint.
        bits: of the weights to replace, 4 or 8.

    Returns:
        The number of weights that were replaced.
    """
    stored = {_key(_first_output(one, reader)): one for one in reader.packed.values() if one.bits == bits}
    count = 0
    for weight in find_weights(model):
        packed = None if _is_table(weight) else stored.get(_key(_first_row(weight)))
        block = None if packed is None else _block(packed)
        if packed is None or block is None or not _fits(packed, reader):
            continue
        replace_weight(
            model, weight, KeptBlocks(packed, reader, cast(str, weight.value.name), block), FLOAT_ACTIVATIONS
        )
        count += 1
    if count:
        model.opset_imports[DOMAIN] = 1
    return count


def _block(packed: PackedWeight) -> int | None:
    """Inputs of a block: the largest power of two that every group is made of; None where it is too small."""
    size = packed.block[1]
    if packed.layout in ("plain", "codes") or packed.block[0] != 1:
        return None
    block = 32 if size >= packed.shape[1] else min(_MOST_BLOCK, size & -size)
    return block if block >= _LEAST_BLOCK else None


def _fits(packed: PackedWeight, reader: CheckpointReader) -> bool:
    """Whether zero points are numbers of as many bits (AutoGPTQ may store 16 in 4 bits), and groups are whole."""
    parts = parts_of(packed, reader)
    zeros = zero_points(packed, parts)
    if bool(((zeros < 0) | (zeros >= 2**packed.bits)).any()):
        return False
    if "groups" not in parts:
        return True
    inputs = torch.arange(packed.shape[1])
    return bool(torch.equal(parts["groups"].long().sort().values, inputs // packed.block[1]))


def _first_output(packed: PackedWeight, reader: CheckpointReader) -> tuple[Array, tuple[int, int]]:
    return dequantized(packed, parts_of(packed, reader), rows=1).numpy()[0], packed.shape


def _first_row(weight: QuantizableWeight) -> tuple[Array, tuple[int, int]]:
    tensor = cast("ir.TensorProtocol", weight.value.const_value)
    array = tensor.numpy()
    rows = array if weight.by_row else array.T
    return np.ascontiguousarray(rows[0]), (rows.shape[0], rows.shape[1])


def _key(first: tuple[Array, tuple[int, int]]) -> tuple[bytes, tuple[int, int]]:
    return first[0].tobytes(), first[1]


def _is_table(weight: QuantizableWeight) -> bool:
    return any(user.op_type == "Gather" for user in weight.users)
