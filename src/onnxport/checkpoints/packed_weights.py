"""Weights that a checkpoint stores quantized: which tensors belong to which weight, and how they are packed.

Standard library only: everything is checked on names, types and shapes in the headers of the files, before a tensor is
read. A weight is a matrix (outputs, inputs); it is `(number - zero point) * scale`, with one scale for a block. Several
numbers are in one int32, the first in the lowest bits. The layouts, and where they are defined:

- gptq (AutoGPTQ, nn_modules/qlinear): integers (inputs * bits / 32, outputs), zero points (groups, outputs * bits /
  32), scales (groups, outputs). Stored zero points are one too small, except in the version gptq_v2. g_idx says which
  group an input belongs to.
- awq (AutoAWQ, utils/packing_utils.py; GEMM): integers (inputs, outputs / 8), zero points (groups, outputs / 8), scales
  (groups, outputs). The eight columns of a word are in the order 0 2 4 6 1 3 5 7.
- rows (compressed-tensors, compressors/quantized_compressors/pack_quantized.py): integers (outputs, inputs * bits /
  32), zero points (outputs * bits / 32, groups), scales (outputs, groups). 2^(bits - 1) was added to numbers and zero
  points.
- plain (compressed-tensors; transformers, integrations/finegrained_fp8.py): int8 or float8 (outputs, inputs), and
  scales for the matrix, for each row, or for each block.
- codes: see `packed_bitsandbytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport.checkpoints.packed_bitsandbytes import bitsandbytes_weights
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
from onnxport.formats.safetensors_file import read_header

_WORD = 32  # bits of the integers that several weights are packed into
_FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2"})
# Of activations that the source rounds; the converted model computes in float32.
_ACTIVATIONS = (
    ".input_scale", ".output_scale", ".activation_scale", ".input_zero_point", ".input_global_scale", ".k_scale",
    ".v_scale", ".q_scale", ".input_scale_ub",
)  # fmt: skip


@dataclass(frozen=True)
class PackedWeights:
    """The quantized weights of a checkpoint.

    Attributes:
        method: "gptq", "awq", "compressed-tensors", "fp8", "fbgemm_fp8" or "bitsandbytes".
        weights: each of them.
        activations: names of tensors that belong to the rounding of activations.
    """

    method: str
    weights: tuple[PackedWeight, ...]
    activations: frozenset[str] = frozenset()


def find_packed_weights(config: Mapping[str, Any], files: Iterable[Path]) -> PackedWeights | None:
    """The weights that `files` hold quantized; None where config.json has no quantization_config.

    Args:
        config: config.json.
        files: safetensors.

    Raises:
        CheckpointError: a method, a format or a number of bits that is not read; or the files do not fit the config.

    Example:
        >>> find_packed_weights({"model_type": "llama"}, [])
    """
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        return None
    method = str(settings.get("quant_method", "unknown method")).lower()
    find = _METHODS.get(method)
    if find is None:
        raise CheckpointError(
            f"Weights that are quantized with {method} cannot be dequantized; {', '.join(_METHODS)} can.",
            hint=ORIGINAL,
        )
    places = {name: (file, tensor) for file in files for name, tensor in read_header(file).tensors.items()}
    stored = StoredTensors(
        settings, {name: place[1] for name, place in places.items()}, {name: place[0] for name, place in places.items()}
    )
    weights = tuple(find(stored))
    if not weights:
        raise CheckpointError(
            f"config.json says that the weights are quantized ({method}), and no file holds a quantized one.",
            hint="Is it the original? Then take quantization_config out of config.json. Otherwise: " + DAMAGED,
        )
    found = PackedWeights(method, weights, frozenset(name for name in places if name.endswith(_ACTIVATIONS)))
    _require_all(stored, found)
    return found


def _require_all(stored: StoredTensors, found: PackedWeights) -> None:
    """Refuse numbers of 8 bits that belong to no quantized weight: without their scales they mean nothing."""
    known = {part for weight in found.weights for part in weight.parts.values()} | found.activations
    for name, tensor in stored.tensors.items():
        packed = tensor.dtype in {"I8", *_FLOAT8} or (tensor.dtype == "U8" and name.endswith(".weight"))
        if packed and name not in known:
            raise CheckpointError(f"{name} is {tensor.dtype}, and the checkpoint has no scales for it.", hint=ORIGINAL)


def _gptq(stored: StoredTensors) -> Iterator[PackedWeight]:
    version = str(stored.settings.get("checkpoint_format") or "gptq").lower()
    if version not in ("gptq", "gptq_v2"):
        raise unknown_setting("checkpoint_format", version, "gptq and gptq_v2")
    bits = stored.number("bits")
    if bits not in (2, 4, 8):
        raise unknown_setting("bits", bits, "2, 4 and 8")
    for base in _bases(stored, ".qweight"):
        words, outputs = stored.matrix(f"{base}.qweight", {"I32"})
        inputs = words * _WORD // bits
        groups = _groups(stored, inputs)
        zeros = (groups, _words(outputs, bits))
        parts = {
            "integers": f"{base}.qweight",
            "scales": stored.part(f"{base}.scales", SCALES, (groups, outputs)),
            "zeros": stored.part(f"{base}.qzeros", {"I32"}, zeros),
        }
        if f"{base}.g_idx" in stored.tensors:
            parts["groups"] = stored.part(f"{base}.g_idx", {"I32"}, (inputs,))
            _require_groups(stored, parts["groups"], groups)
        elif stored.settings.get("desc_act"):
            stored.part(f"{base}.g_idx", {"I32"})
        yield PackedWeight(f"{base}.weight", "gptq", parts, (outputs, inputs), bits,
                           (1, _group_size(stored, inputs)), int(version == "gptq"))  # fmt: skip


def _awq(stored: StoredTensors) -> Iterator[PackedWeight]:
    version = str(stored.settings.get("version") or stored.settings.get("format") or "gemm").lower()
    backend = str(stored.settings.get("backend") or "autoawq").lower()
    if version != "gemm":
        raise unknown_setting("version", version, "gemm")
    if backend == "llm-awq":
        raise unknown_setting("backend", backend, "autoawq")
    bits = stored.number("bits", "w_bit")
    if bits != 4:
        raise unknown_setting("bits", bits, "4")
    for base in _bases(stored, ".qweight"):
        inputs, words = stored.matrix(f"{base}.qweight", {"I32"})
        outputs = words * _WORD // bits
        groups = _groups(stored, inputs)
        parts = {
            "integers": f"{base}.qweight",
            "scales": stored.part(f"{base}.scales", SCALES, (groups, outputs)),
            "zeros": stored.part(f"{base}.qzeros", {"I32"}, (groups, words)),
        }
        yield PackedWeight(f"{base}.weight", "awq", parts, (outputs, inputs), bits, (1, _group_size(stored, inputs)))


def _compressed_tensors(stored: StoredTensors) -> Iterator[PackedWeight]:
    settings = stored.settings
    sparsity = settings.get("sparsity_config") or {}
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise unknown_setting("sparsity_config", sparsity.get("format"), "dense")
    if settings.get("transform_config"):
        raise unknown_setting("transform_config", "set", "no transforms of activations")
    schemes = list(_schemes(settings))
    for base in _bases(stored, ".weight_packed"):
        yield _packed_rows(stored, base, [one for one in schemes if one.get("type", "int") == "int"])
    for base in _bases(stored, ".weight_scale"):
        if f"{base}.weight_packed" not in stored.tensors:
            blocks = [one["block_structure"] for one in schemes if one.get("block_structure")]
            groups = {one.get("group_size") for one in schemes}
            yield _plain(stored, base, "weight_scale", blocks + [[1, size] for size in groups if size])


def _schemes(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """How the groups of layers are quantized."""
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights


def _packed_rows(stored: StoredTensors, base: str, schemes: list[Mapping[str, Any]]) -> PackedWeight:
    outputs, words = stored.matrix(f"{base}.weight_packed", {"I32"})
    inputs = _second_size(stored, stored.part(f"{base}.weight_shape", {"I32", "I64"}, (2,)), outputs)
    fitting = [one for one in schemes if one.get("num_bits") in (4, 8) and _words(inputs, one["num_bits"]) == words]
    if not fitting:
        known = ", ".join(str(one.get("num_bits")) for one in schemes) or "none"
        raise CheckpointError(
            f"{base}.weight_packed ({shape_text((outputs, words))}) holds {inputs} numbers a row with neither 4 nor "
            f"8 bits (num_bits in config.json: {known}).",
            hint=ORIGINAL,
        )
    bits, scales = int(fitting[0]["num_bits"]), f"{base}.weight_scale"
    _, groups = stored.matrix(scales, SCALES)
    sizes = {inputs if not one.get("group_size") or one["group_size"] < 0 else one["group_size"] for one in fitting}
    size = next((size for size in sorted(sizes) if -(-inputs // size) == groups), inputs)
    stored.part(scales, SCALES, (outputs, -(-inputs // size)))
    parts = {"integers": f"{base}.weight_packed", "scales": scales}
    zeros = f"{base}.weight_zero_point"
    if zeros in stored.tensors:
        unpacked = stored.tensors[zeros].dtype == "I8"
        shape = (outputs if unpacked else _words(outputs, bits), groups)
        parts["zeros"] = stored.part(zeros, {"I8", "I32"}, shape)
    if f"{base}.weight_g_idx" in stored.tensors:
        parts["groups"] = stored.part(f"{base}.weight_g_idx", {"I32", "I64"}, (inputs,))
        _require_groups(stored, parts["groups"], groups)
    return PackedWeight(f"{base}.weight", "rows", parts, (outputs, inputs), bits, (1, size))


def _fp8(stored: StoredTensors) -> Iterator[PackedWeight]:
    block = stored.settings.get("weight_block_size")
    for ending in ("weight_scale_inv", "weight_scale"):
        for base in _bases(stored, f".{ending}"):
            yield _plain(stored, base, ending, [block] if block else [])


def _plain(stored: StoredTensors, base: str, ending: str, blocks: list[Any]) -> PackedWeight:
    """A weight of 8 bits with a scale for the matrix, for each row or for each block."""
    name, scales = f"{base}.weight", f"{base}.{ending}"
    shape = outputs, inputs = stored.matrix(name, {"I8", *_FLOAT8})
    found = stored.tensors[stored.part(scales, SCALES)].shape
    choices: dict[tuple[int, ...], tuple[int, int]] = dict.fromkeys([(), (1,), (1, 1)], shape)
    choices |= dict.fromkeys([(outputs,), (outputs, 1)], (1, inputs))
    for block in blocks:
        rows, columns = _block(block)
        choices.setdefault((-(-outputs // rows), -(-inputs // columns)), (rows, columns))
    stored.part(scales, SCALES, *choices)
    parts = {"integers": name, "scales": scales}
    zeros = f"{base}.weight_zero_point"
    if zeros in stored.tensors and stored.tensors[name].dtype == "I8":
        parts["zeros"] = stored.part(zeros, {"I8"}, found)
    return PackedWeight(name, "plain", parts, shape, 8, choices[found])


_METHODS = {
    "gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed_tensors, "fp8": _fp8, "fbgemm_fp8": _fp8,
    "bitsandbytes": bitsandbytes_weights,
}  # fmt: skip


def _bases(stored: StoredTensors, ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in stored.tensors if name.endswith(ending)]


def _group_size(stored: StoredTensors, inputs: int) -> int:
    size = stored.number("group_size", "q_group_size", default=-1)
    if size == 0 or size < -1:
        raise unknown_setting("group_size", size, "-1 and positive numbers")
    return inputs if size == -1 else size


def _groups(stored: StoredTensors, inputs: int) -> int:
    return -(-inputs // _group_size(stored, inputs))


def _words(count: int, bits: int) -> int:
    return -(-count * bits // _WORD)


def _block(block: Any) -> tuple[int, int]:
    if not isinstance(block, list) or len(block) != 2 or not all(isinstance(one, int) and one > 0 for one in block):
        raise unknown_setting("the block of weights", block, "two positive numbers")
    return block[0], block[1]


def _require_groups(stored: StoredTensors, name: str, groups: int) -> None:
    """Each input must belong to one of the groups."""
    values = stored.integers(name)
    bad = next((value for value in values if not 0 <= value < groups), None)
    if bad is not None:
        raise CheckpointError(f"{name} names the group {bad}, and there are {groups}.", hint=DAMAGED)


def _second_size(stored: StoredTensors, name: str, outputs: int) -> int:
    """The inputs that a stored shape says."""
    first, second = stored.integers(name)
    if first != outputs or not 0 < second < 2**31:
        raise CheckpointError(f"{name} says {shape_text((first, second))}, and there are {outputs} rows.", hint=DAMAGED)
    return second
