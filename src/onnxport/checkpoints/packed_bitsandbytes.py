"""Weights as bitsandbytes stores them (nn/modules.py, functional.py: QuantState.as_dict, dequantize_4bit).

- 8 bits: int8 (outputs, inputs), and in SCB the largest value of each row, which 127 stands for.
- 4 bits: numbers of a table of 16 values (nf4 or fp4), two in a byte, the first in the high half; one row after the
  other. Each block of them has a scale. Scales may be numbers of a table themselves, in blocks of 256 with a scale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from onnxport.checkpoints.stored_parts import (
    DAMAGED,
    ORIGINAL,
    SCALES,
    PackedWeight,
    StoredTensors,
    shape_text,
    unknown_setting,
)
from onnxport.errors import CheckpointError
from onnxport.formats.json_file import parse_json

_STATE = ".quant_state.bitsandbytes__"
_MOST_STATE_BYTES = 2**14
_SCALES_OF_ONE = 256  # that have one scale themselves


def bitsandbytes_weights(stored: StoredTensors) -> Iterator[PackedWeight]:
    """The quantized weights of a checkpoint of bitsandbytes.

    Raises:
        CheckpointError: parts do not fit each other, or are packed in a way that is not read.
    """
    for name in stored.tensors:
        if name.endswith(".SCB"):
            yield _eight_bits(stored, name.removesuffix(".SCB"))
        elif _STATE in name:
            yield _four_bits(stored, name.partition(_STATE)[0], name)


def _eight_bits(stored: StoredTensors, base: str) -> PackedWeight:
    outputs, inputs = stored.matrix(f"{base}.weight", {"I8"})
    order = f"{base}.weight_format"
    if order in stored.tensors and stored.tensors[order].shape in ((), (1,)):
        with stored.files[order].open("rb") as file:
            file.seek(stored.tensors[order].begin)
            value = int.from_bytes(file.read(stored.tensors[order].end - stored.tensors[order].begin), "little")
        if value != 0:
            raise unknown_setting(order, value, "0 (rows)")
    scales = stored.part(f"{base}.SCB", SCALES, (outputs,))
    parts = {"integers": f"{base}.weight", "scales": scales}
    return PackedWeight(f"{base}.weight", "plain", parts, (outputs, inputs), 8, (1, inputs), scale_factor=1 / 127)


def _four_bits(stored: StoredTensors, name: str, state_name: str) -> PackedWeight:
    state = _state(stored, state_name)
    outputs, inputs = _sizes(state.get("shape"), state_name)
    block = state.get("blocksize")
    if not isinstance(block, int) or block < 1:
        raise unknown_setting(f"blocksize of {state_name}", block, "a positive number")
    if inputs % block or inputs % 2:
        raise CheckpointError(
            f"{name} has rows of {inputs} numbers, in which blocks of {block} do not end.", hint=ORIGINAL
        )
    packed = outputs * inputs // 2
    count = outputs * inputs // block
    parts = {
        "integers": stored.part(name, {"U8"}, (packed, 1), (1, packed), (packed,)),
        "codes": stored.part(f"{name}.quant_map", {"F32"}, (16,)),
        "state": state_name,
    }
    if f"{name}.nested_absmax" not in stored.tensors:
        parts["scales"] = stored.part(f"{name}.absmax", {"F32"}, (count,))
        return PackedWeight(name, "codes", parts, (outputs, inputs), 4, (1, block))
    offset, size = state.get("nested_offset"), state.get("nested_blocksize", _SCALES_OF_ONE)
    if not isinstance(offset, float) or size != _SCALES_OF_ONE:
        raise unknown_setting(f"nested_offset, nested_blocksize of {state_name}", (offset, size), "a number and 256")
    parts["scales"] = stored.part(f"{name}.absmax", {"U8"}, (count,))
    parts["outer_scales"] = stored.part(f"{name}.nested_absmax", {"F32"}, (-(-count // _SCALES_OF_ONE),))
    parts["scale_codes"] = stored.part(f"{name}.nested_quant_map", {"F32"}, (256,))
    return PackedWeight(name, "codes", parts, (outputs, inputs), 4, (1, block), scale_offset=offset)


def _state(stored: StoredTensors, name: str) -> dict[str, Any]:
    """The JSON in a tensor of bytes."""
    tensor = stored.tensors[stored.part(name, {"U8"})]
    if len(tensor.shape) != 1 or tensor.shape[0] > _MOST_STATE_BYTES:
        raise CheckpointError(f"{name} has the shape {shape_text(tensor.shape)}.", hint=DAMAGED)
    try:
        found = parse_json(bytes(stored.integers(name)))
    except (ValueError, RecursionError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{name} is not JSON ({error}).", hint=DAMAGED) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} is not a JSON object.", hint=DAMAGED)
    return found


def _sizes(shape: Any, name: str) -> tuple[int, int]:
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(one, int) and one > 0 for one in shape):
        raise unknown_setting(f"shape of {name}", shape, "two positive sizes")
    return shape[0], shape[1]
