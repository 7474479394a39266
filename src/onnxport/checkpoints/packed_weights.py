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
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointError
from onnxport.formats.safetensors_file import FLOAT_NAMES, StoredTensor, read_header

_ORIGINAL = "Convert the original float checkpoint; `onnxport quantize` makes the result small."
_DAMAGED = "Copy or download the checkpoint again."
_WORD = 32  # bits of the integers that several weights are packed into
_SCALES = frozenset({*FLOAT_NAMES, "F8_E8M0"})
_FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2"})
# Of activations that the source rounds; the converted model computes in float32.
_ACTIVATIONS = (
    ".input_scale", ".output_scale", ".activation_scale", ".input_zero_point", ".input_global_scale", ".k_scale",
    ".v_scale", ".q_scale", ".input_scale_ub",
)  # fmt: skip


@dataclass(frozen=True)
class PackedWeight:
    """A weight that is made of several stored tensors.

    Attributes:
        name: of the weight: "model.layers.0.mlp.up_proj.weight".
        layout: "gptq", "awq", "rows" or "plain" (see the module).
        parts: "integers", "scales" and, where there are some, "zeros" and "groups" -> name of the stored tensor.
        shape: (outputs, inputs).
        bits: of one number.
        block: outputs and inputs that have one scale. "groups" says of each input which column of the scales it has.
        zero_offset: is added to stored zero points.
    """

    name: str
    layout: str
    parts: Mapping[str, str]
    shape: tuple[int, int]
    bits: int
    block: tuple[int, int]
    zero_offset: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Number of scales along both axes."""
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])


@dataclass(frozen=True)
class PackedWeights:
    """The quantized weights of a checkpoint.

    Attributes:
        method: "gptq", "awq", "compressed-tensors", "fp8" or "fbgemm_fp8".
        weights: each of them.
        activations: names of tensors that belong to the rounding of activations.
    """

    method: str
    weights: tuple[PackedWeight, ...]
    activations: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Stored:
    """What the headers say.

    Attributes:
        settings: quantization_config.
        tensors: by name.
        files: by name of the tensor.
    """

    settings: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    def part(self, name: str, types: Iterable[str], *shapes: tuple[int, ...]) -> str:
        """`name`, which must be there with one of these types and shapes.

        Raises:
            CheckpointError: it is not.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"The checkpoint lacks {name}, a part of a quantized weight.", hint=_DAMAGED)
        if tensor.dtype not in types or (shapes and tensor.shape not in shapes):
            wanted = " or ".join(map(_shape, dict.fromkeys(shapes))) or "another shape"
            raise CheckpointError(
                f"{name} is {tensor.dtype} {_shape(tensor.shape)}, and the quantized weight that it is a part of needs "
                f"{'/'.join(sorted(types))} {wanted}.",
                hint="Do config.json (quantization_config) and the weights belong together? " + _DAMAGED,
            )
        return name

    def matrix(self, name: str, types: Iterable[str]) -> tuple[int, int]:
        """The shape of a tensor with two axes, neither of them empty."""
        shape = self.tensors[self.part(name, types)].shape
        if len(shape) != 2 or not all(shape):
            raise CheckpointError(f"{name} is {_shape(shape)}, and only matrices are dequantized.", hint=_ORIGINAL)
        return shape[0], shape[1]

    def number(self, *names: str, default: int | None = None) -> int:
        """A whole number of the settings.

        Raises:
            CheckpointError: it is missing, or something else.
        """
        value = next((self.settings[name] for name in names if self.settings.get(name) is not None), default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"{names[0]} of quantization_config is {value!r}, no whole number.", hint=_DAMAGED)
        return value


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
            hint=_ORIGINAL,
        )
    places = {name: (file, tensor) for file in files for name, tensor in read_header(file).tensors.items()}
    stored = _Stored(
        settings, {name: place[1] for name, place in places.items()}, {name: place[0] for name, place in places.items()}
    )
    weights = tuple(find(stored))
    if not weights:
        raise CheckpointError(
            f"config.json says that the weights are quantized ({method}), and no file holds a quantized one.",
            hint="Is it the original? Then take quantization_config out of config.json. Otherwise: " + _DAMAGED,
        )
    found = PackedWeights(method, weights, frozenset(name for name in places if name.endswith(_ACTIVATIONS)))
    _require_all(stored, found)
    return found


def _require_all(stored: _Stored, found: PackedWeights) -> None:
    """Refuse numbers of 8 bits that belong to no quantized weight: without their scales they mean nothing."""
    known = {part for weight in found.weights for part in weight.parts.values()} | found.activations
    for name, tensor in stored.tensors.items():
        if tensor.dtype in {"I8", *_FLOAT8} and name not in known:
            raise CheckpointError(f"{name} is {tensor.dtype}, and the checkpoint has no scales for it.", hint=_ORIGINAL)


def _gptq(stored: _Stored) -> Iterator[PackedWeight]:
    version = str(stored.settings.get("checkpoint_format") or "gptq").lower()
    if version not in ("gptq", "gptq_v2"):
        raise _unknown("checkpoint_format", version, "gptq and gptq_v2")
    bits = stored.number("bits")
    if bits not in (2, 4, 8):
        raise _unknown("bits", bits, "2, 4 and 8")
    for base in _bases(stored, ".qweight"):
        words, outputs = stored.matrix(f"{base}.qweight", {"I32"})
        inputs = words * _WORD // bits
        groups = _groups(stored, inputs)
        zeros = (groups, _words(outputs, bits))
        parts = {
            "integers": f"{base}.qweight",
            "scales": stored.part(f"{base}.scales", _SCALES, (groups, outputs)),
            "zeros": stored.part(f"{base}.qzeros", {"I32"}, zeros),
        }
        if f"{base}.g_idx" in stored.tensors:
            parts["groups"] = stored.part(f"{base}.g_idx", {"I32"}, (inputs,))
            _require_groups(stored, parts["groups"], groups)
        elif stored.settings.get("desc_act"):
            stored.part(f"{base}.g_idx", {"I32"})
        yield PackedWeight(f"{base}.weight", "gptq", parts, (outputs, inputs), bits,
                           (1, _group_size(stored, inputs)), int(version == "gptq"))  # fmt: skip


def _awq(stored: _Stored) -> Iterator[PackedWeight]:
    version = str(stored.settings.get("version") or stored.settings.get("format") or "gemm").lower()
    backend = str(stored.settings.get("backend") or "autoawq").lower()
    if version != "gemm":
        raise _unknown("version", version, "gemm")
    if backend == "llm-awq":
        raise _unknown("backend", backend, "autoawq")
    bits = stored.number("bits", "w_bit")
    if bits != 4:
        raise _unknown("bits", bits, "4")
    for base in _bases(stored, ".qweight"):
        inputs, words = stored.matrix(f"{base}.qweight", {"I32"})
        outputs = words * _WORD // bits
        groups = _groups(stored, inputs)
        parts = {
            "integers": f"{base}.qweight",
            "scales": stored.part(f"{base}.scales", _SCALES, (groups, outputs)),
            "zeros": stored.part(f"{base}.qzeros", {"I32"}, (groups, words)),
        }
        yield PackedWeight(f"{base}.weight", "awq", parts, (outputs, inputs), bits, (1, _group_size(stored, inputs)))


def _compressed_tensors(stored: _Stored) -> Iterator[PackedWeight]:
    settings = stored.settings
    sparsity = settings.get("sparsity_config") or {}
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise _unknown("sparsity_config", sparsity.get("format"), "dense")
    if settings.get("transform_config"):
        raise _unknown("transform_config", "set", "no transforms of activations")
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


def _packed_rows(stored: _Stored, base: str, schemes: list[Mapping[str, Any]]) -> PackedWeight:
    outputs, words = stored.matrix(f"{base}.weight_packed", {"I32"})
    inputs = _second_size(stored, stored.part(f"{base}.weight_shape", {"I32", "I64"}, (2,)), outputs)
    fitting = [one for one in schemes if one.get("num_bits") in (4, 8) and _words(inputs, one["num_bits"]) == words]
    if not fitting:
        known = ", ".join(str(one.get("num_bits")) for one in schemes) or "none"
        raise CheckpointError(
            f"{base}.weight_packed ({_shape((outputs, words))}) holds {inputs} numbers a row with neither 4 nor 8 bits "
            f"(num_bits in config.json: {known}).",
            hint=_ORIGINAL,
        )
    bits, scales = int(fitting[0]["num_bits"]), f"{base}.weight_scale"
    _, groups = stored.matrix(scales, _SCALES)
    sizes = {inputs if not one.get("group_size") or one["group_size"] < 0 else one["group_size"] for one in fitting}
    size = next((size for size in sorted(sizes) if -(-inputs // size) == groups), inputs)
    stored.part(scales, _SCALES, (outputs, -(-inputs // size)))
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


def _fp8(stored: _Stored) -> Iterator[PackedWeight]:
    block = stored.settings.get("weight_block_size")
    for ending in ("weight_scale_inv", "weight_scale"):
        for base in _bases(stored, f".{ending}"):
            yield _plain(stored, base, ending, [block] if block else [])


def _plain(stored: _Stored, base: str, ending: str, blocks: list[Any]) -> PackedWeight:
    """A weight of 8 bits with a scale for the matrix, for each row or for each block."""
    name, scales = f"{base}.weight", f"{base}.{ending}"
    shape = outputs, inputs = stored.matrix(name, {"I8", *_FLOAT8})
    found = stored.tensors[stored.part(scales, _SCALES)].shape
    choices: dict[tuple[int, ...], tuple[int, int]] = dict.fromkeys([(), (1,), (1, 1)], shape)
    choices |= dict.fromkeys([(outputs,), (outputs, 1)], (1, inputs))
    for block in blocks:
        rows, columns = _block(block)
        choices.setdefault((-(-outputs // rows), -(-inputs // columns)), (rows, columns))
    stored.part(scales, _SCALES, *choices)
    parts = {"integers": name, "scales": scales}
    zeros = f"{base}.weight_zero_point"
    if zeros in stored.tensors and stored.tensors[name].dtype == "I8":
        parts["zeros"] = stored.part(zeros, {"I8"}, found)
    return PackedWeight(name, "plain", parts, shape, 8, choices[found])


_METHODS = {
    "gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed_tensors, "fp8": _fp8, "fbgemm_fp8": _fp8,
}  # fmt: skip


def _bases(stored: _Stored, ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in stored.tensors if name.endswith(ending)]


def _group_size(stored: _Stored, inputs: int) -> int:
    size = stored.number("group_size", "q_group_size", default=-1)
    if size == 0 or size < -1:
        raise _unknown("group_size", size, "-1 and positive numbers")
    return inputs if size == -1 else size


def _groups(stored: _Stored, inputs: int) -> int:
    return -(-inputs // _group_size(stored, inputs))


def _words(count: int, bits: int) -> int:
    return -(-count * bits // _WORD)


def _block(block: Any) -> tuple[int, int]:
    if not isinstance(block, list) or len(block) != 2 or not all(isinstance(one, int) and one > 0 for one in block):
        raise _unknown("the block of weights", block, "two positive numbers")
    return block[0], block[1]


def _require_groups(stored: _Stored, name: str, groups: int) -> None:
    """Each input must belong to one of the groups."""
    values = _integers(stored, name)
    bad = next((value for value in values if not 0 <= value < groups), None)
    if bad is not None:
        raise CheckpointError(f"{name} names the group {bad}, and there are {groups}.", hint=_DAMAGED)


def _second_size(stored: _Stored, name: str, outputs: int) -> int:
    """The inputs that a stored shape says."""
    first, second = _integers(stored, name)
    if first != outputs or not 0 < second < 2**31:
        raise CheckpointError(f"{name} says {_shape((first, second))}, and there are {outputs} rows.", hint=_DAMAGED)
    return second


def _integers(stored: _Stored, name: str) -> tuple[int, ...]:
    tensor = stored.tensors[name]
    with stored.files[name].open("rb") as file:
        file.seek(tensor.begin)
        raw = file.read(tensor.end - tensor.begin)
    return struct.unpack(f"<{tensor.shape[0]}{'i' if tensor.dtype == 'I32' else 'q'}", raw)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _unknown(field_name: str, value: object, known: str) -> CheckpointError:
    return CheckpointError(
        f"{field_name} of quantization_config is {value!r}; weights are dequantized with {known}.", hint=_ORIGINAL
    )
