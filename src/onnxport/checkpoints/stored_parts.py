"""A quantized weight and the stored tensors that it is made of, checked on names, types and shapes alone."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointError
from onnxport.formats.safetensors_file import FLOAT_NAMES, StoredTensor

ORIGINAL = "Convert the original float checkpoint; `onnxport quantize` makes the result small."
DAMAGED = "Copy or download the checkpoint again."
SCALES = frozenset({*FLOAT_NAMES, "F8_E8M0"})
_INTEGERS = {"I32": "i", "I64": "q", "U8": "B"}


@dataclass(frozen=True)
class PackedWeight:
    """A weight that is made of several stored tensors.

    Attributes:
        name: of the weight: "model.layers.0.mlp.up_proj.weight".
        layout: "gptq", "awq", "rows", "plain" or "codes" (see `packed_weights`).
        parts: "integers", "scales" and, where there are some, "zeros", "groups", "codes", "outer_scales" and
            "scale_codes" -> name of the stored tensor.
        shape: (outputs, inputs).
        bits: of one number.
        block: outputs and inputs that have one scale. "groups" says of each input which column of the scales it has.
        zero_offset: is added to stored zero points.
        scale_factor: stored scales are multiplied with it.
        scale_offset: is added to scales that have scales themselves.
    """

    name: str
    layout: str
    parts: Mapping[str, str]
    shape: tuple[int, int]
    bits: int
    block: tuple[int, int]
    zero_offset: int = 0
    scale_factor: float = 1.0
    scale_offset: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        """Number of scales along both axes."""
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])


@dataclass(frozen=True)
class StoredTensors:
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
            raise CheckpointError(f"The checkpoint lacks {name}, a part of a quantized weight.", hint=DAMAGED)
        if tensor.dtype not in types or (shapes and tensor.shape not in shapes):
            wanted = " or ".join(map(shape_text, dict.fromkeys(shapes))) or "another shape"
            raise CheckpointError(
                f"{name} is {tensor.dtype} {shape_text(tensor.shape)}, and the quantized weight that it is a part of "
                f"needs {'/'.join(sorted(types))} {wanted}.",
                hint="Do config.json (quantization_config) and the weights belong together? " + DAMAGED,
            )
        return name

    def matrix(self, name: str, types: Iterable[str]) -> tuple[int, int]:
        """The shape of a tensor with two axes, neither of them empty."""
        shape = self.tensors[self.part(name, types)].shape
        if len(shape) != 2 or not all(shape):
            raise CheckpointError(f"{name} is {shape_text(shape)}, and only matrices are dequantized.", hint=ORIGINAL)
        return shape[0], shape[1]

    def number(self, *names: str, default: int | None = None) -> int:
        """A whole number of the settings.

        Raises:
            CheckpointError: it is missing, or something else.
        """
        value = next((self.settings[name] for name in names if self.settings.get(name) is not None), default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"{names[0]} of quantization_config is {value!r}, no whole number.", hint=DAMAGED)
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """The values of a small tensor of whole numbers with one axis."""
        tensor = self.tensors[name]
        with self.files[name].open("rb") as file:
            file.seek(tensor.begin)
            raw = file.read(tensor.end - tensor.begin)
        return struct.unpack(f"<{tensor.shape[0]}{_INTEGERS[tensor.dtype]}", raw)


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape in words: "32x16"."""
    return "x".join(map(str, shape)) or "scalar"


def unknown_setting(field_name: str, value: object, known: str) -> CheckpointError:
    """The error for a setting that is not read."""
    return CheckpointError(
        f"{field_name} of quantization_config is {value!r}; weights are dequantized with {known}.", hint=ORIGINAL
    )
