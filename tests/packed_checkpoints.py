"""Checkpoints with quantized weights, written number by number as AutoGPTQ, AutoAWQ and compressed-tensors do.

    expected = pack_checkpoint("gptq", save_decoder("llama", folder))

Nothing of onnxport is used, and the expected weights are made of the numbers before they are packed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

GROUP = 16
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble -> column
Tensors = dict[str, torch.Tensor]


def pack_checkpoint(kind: str, folder: Path) -> Tensors:
    """Replace the matrices of the layers by quantized ones; returns the float32 weights that they stand for."""
    make, settings = KINDS[kind]
    tensors, expected = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if ".layers." in name and name.endswith("_proj.weight")]:
        random = np.random.default_rng(len(expected))
        parts, values = make(tensors.pop(name), random)
        tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
        expected[name] = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return expected


def _integers(weight: torch.Tensor, random: np.random.Generator, bits: int) -> tuple[Any, Any, Any]:
    """Random numbers (outputs, inputs), scales and zero points (outputs, groups)."""
    outputs, inputs = weight.shape
    groups = -(-inputs // GROUP)
    numbers = random.integers(0, 2**bits, (outputs, inputs))
    scales = random.uniform(0.01, 0.08, (outputs, groups)).astype(np.float16)
    return numbers, scales, random.integers(1, 2**bits, (outputs, groups))


def _values(numbers: Any, scales: Any, zeros: Any, groups: Any = None) -> Any:
    found = np.zeros(numbers.shape, np.float32)
    for row in range(numbers.shape[0]):
        for column in range(numbers.shape[1]):
            group = column // GROUP if groups is None else groups[column]
            found[row, column] = (numbers[row, column] - zeros[row, group]) * np.float32(scales[row, group])
    return found


def _words(numbers: Any, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Pack the last axis into int32."""
    per_word = 32 // bits
    rows, columns = numbers.shape
    words = np.zeros((rows, -(-columns // per_word)), np.uint32)
    for row in range(rows):
        for word in range(words.shape[1]):
            for place in range(per_word):
                column = word * per_word + (place if order is None else order[place])
                if column < columns:
                    words[row, word] |= np.uint32(int(numbers[row, column]) << (bits * place))
    return torch.from_numpy(words.view(np.int32))


def _t(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t().contiguous()


def _gptq(*, shuffled: bool = False, offset: int = 1, bits: int = 4) -> Callable[..., Any]:
    def make(weight: torch.Tensor, random: np.random.Generator) -> tuple[Tensors, Any]:
        numbers, scales, zeros = _integers(weight, random, bits)
        groups = np.arange(weight.shape[1]) // GROUP
        if shuffled:
            groups = random.permutation(groups)
        parts = {
            "qweight": _t(_words(numbers, bits)),  # along the inputs
            "qzeros": _words(zeros.T - offset, bits),  # along the outputs
            "scales": torch.from_numpy(scales.T.copy()),
            "g_idx": torch.from_numpy(groups.astype(np.int32)),
            "bias": torch.zeros(len(numbers), dtype=torch.float16),  # AutoGPTQ writes one for every layer
        }
        return parts, _values(numbers, scales, zeros, groups)

    return make


def _awq(weight: torch.Tensor, random: np.random.Generator) -> tuple[Tensors, Any]:
    numbers, scales, zeros = _integers(weight, random, 4)
    parts = {
        "qweight": _words(numbers.T, 4, _AWQ_ORDER),
        "qzeros": _words(zeros.T, 4, _AWQ_ORDER),
        "scales": torch.from_numpy(scales.T.copy()),
    }
    return parts, _values(numbers, scales, zeros)


def _rows(*, symmetric: bool) -> Callable[..., Any]:
    def make(weight: torch.Tensor, random: np.random.Generator) -> tuple[Tensors, Any]:
        numbers, scales, zeros = _integers(weight, random, 4)
        zeros = np.full_like(zeros, 8) if symmetric else zeros
        parts = {
            "weight_packed": _words(numbers, 4),
            "weight_scale": torch.from_numpy(scales),
            "weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            parts["weight_zero_point"] = _t(_words(zeros.T, 4))
        return parts, _values(numbers, scales, zeros)

    return make


def _int8(weight: torch.Tensor, random: np.random.Generator) -> tuple[Tensors, Any]:
    numbers = random.integers(-127, 128, weight.shape).astype(np.int8)
    scales = random.uniform(0.001, 0.005, (len(numbers), 1)).astype(np.float16)
    parts = {"weight": torch.from_numpy(numbers), "weight_scale": torch.from_numpy(scales)}
    return parts, numbers.astype(np.float32) * scales.astype(np.float32)


def _fp8(block: tuple[int, int] | None, ending: str) -> Callable[..., Any]:
    def make(weight: torch.Tensor, random: np.random.Generator) -> tuple[Tensors, Any]:
        rows, columns = block or (1, weight.shape[1])
        stored = (weight * 50).to(torch.float8_e4m3fn)
        grid = (-(-weight.shape[0] // rows), -(-weight.shape[1] // columns))
        scales = random.uniform(0.01, 0.03, grid).astype(np.float32)
        values = stored.float().numpy()
        for row in range(weight.shape[0]):
            for column in range(weight.shape[1]):
                values[row, column] *= scales[row // rows, column // columns]
        parts = {"weight": stored, ending: torch.from_numpy(scales)}
        if block is None:
            parts["input_scale"] = torch.tensor(0.5)
        return parts, values

    return make


def _bnb8(weight: torch.Tensor, random: np.random.Generator) -> tuple[Tensors, Any]:
    numbers = random.integers(-127, 128, weight.shape).astype(np.int8)
    largest = random.uniform(0.2, 0.6, len(numbers)).astype(np.float32)
    parts = {"weight": torch.from_numpy(numbers), "SCB": torch.from_numpy(largest), "weight_format": torch.tensor(0)}
    scales = largest * np.float32(1 / 127)
    return parts, numbers.astype(np.float32) * scales[:, None]


def _nf4(*, nested: bool) -> Callable[..., Any]:
    def make(weight: torch.Tensor, random: np.random.Generator) -> tuple[Tensors, Any]:
        numbers = random.integers(0, 16, weight.shape)
        codes = np.sort(random.uniform(-1, 1, 16)).astype(np.float32)
        flat = numbers.reshape(-1)
        packed = np.array([flat[at] * 16 + flat[at + 1] for at in range(0, flat.size, 2)], np.uint8)
        scales = random.uniform(0.1, 0.5, flat.size // GROUP).astype(np.float32)
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": GROUP, "dtype": "float16", "shape": [*weight.shape]}
        parts = {
            "weight": torch.from_numpy(packed[:, None]),
            "weight.quant_map": torch.from_numpy(codes),
            "weight.absmax": torch.from_numpy(scales),
        }
        if nested:
            levels = random.integers(0, 256, scales.size).astype(np.uint8)
            table = np.linspace(-1, 1, 256, dtype=np.float32)
            outer = random.uniform(0.05, 0.1, -(-scales.size // 256)).astype(np.float32)
            scales = np.array([table[one] * outer[at // 256] for at, one in enumerate(levels)], np.float32)
            scales = scales + np.float32(0.25)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}
            parts["weight.absmax"] = torch.from_numpy(levels)
            parts["weight.nested_absmax"] = torch.from_numpy(outer)
            parts["weight.nested_quant_map"] = torch.from_numpy(table)
        raw = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
        parts["weight.quant_state.bitsandbytes__nf4"] = torch.from_numpy(raw)
        return parts, codes[numbers] * np.repeat(scales, GROUP).reshape(numbers.shape)

    return make


def _compressed(weights: dict[str, Any]) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}, "ignore": []}


_INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}
KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "gptq": (_gptq(), _GPTQ),
    "gptq-8-bits": (_gptq(bits=8), {**_GPTQ, "bits": 8}),
    "gptq-desc-act": (_gptq(shuffled=True), {**_GPTQ, "desc_act": True}),
    "gptq-v2": (_gptq(offset=0), {**_GPTQ, "checkpoint_format": "gptq_v2"}),
    "awq": (_awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
    "int4": (_rows(symmetric=True), _compressed({**_INT4, "symmetric": True})),
    "int4-asymmetric": (_rows(symmetric=False), _compressed({**_INT4, "symmetric": False})),
    "int8": (_int8, _compressed({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True})),
    "bitsandbytes-8-bits": (_bnb8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "nf4": (_nf4(nested=False), {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "nf4-nested": (_nf4(nested=True), {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "float8": (_fp8(None, "weight_scale"), _compressed({"num_bits": 8, "type": "float", "strategy": "channel"})),
    "float8-blocks": (_fp8((24, 32), "weight_scale_inv"), {"quant_method": "fp8", "weight_block_size": [24, 32]}),
}  # fmt: skip
