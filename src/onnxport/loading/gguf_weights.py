"""The weights of a model that transformers unpacked from a GGUF file, against the file itself.

transformers unpacks the tensors, and turns some of them: it exchanges rows of queries and keys, transposes matrices,
puts axes in. So a parameter is compared with the tensor that llama.cpp's own table has for its name, element by element
in any order. A parameter that holds another tensor, or one changed number, is found; one that was turned in a wrong way
is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import VerificationError
from onnxport.formats.gguf_file import read_gguf_header

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]
# llama.cpp's tables are made of names of models with a head; of some not all names are known without it.
_PREFIXES = ("", "model.", "backbone.", "transformer.")
_COMPUTED = ("ssm_a",)  # a logarithm in the model
_AT_ONCE = 2**20  # elements
_FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def require_gguf_weights(model: torch.nn.Module, file: Path) -> None:
    """Compare every parameter with its tensor in the file.

    Not compared are parameters that transformers makes of several tensors (experts), and names that llama.cpp's table
    lacks.

    Args:
        model: as transformers loaded it.
        file: the GGUF file.

    Raises:
        VerificationError: a parameter holds other numbers.
    """
    for name, parameter, stored in _pairs(model, file):
        if parameter.numel() != stored.n_elements:
            continue
        kinds = [0.0, *((-1.0, 1.0) if parameter.dim() == 1 else ())]  # norms that count from one
        wanted = [_digest(_as_loaded(stored, parameter, shift)) for shift in kinds]
        if _digest(parameter.detach().float().numpy()) not in wanted:
            raise VerificationError(
                f"The parameter {name} of the loaded model does not have the values of {stored.name} in {file.name}.",
                hint="Is the file one that transformers reads? Convert the checkpoint that it was made from.",
            )


def _pairs(model: torch.nn.Module, file: Path) -> Iterator[tuple[str, torch.Tensor, Any]]:
    """(name, parameter, tensor of the file) of those that are made of one tensor."""
    import gguf

    architecture = read_gguf_header(file).architecture
    kind = next((arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), None)
    config: Any = model.config
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if kind is None or not isinstance(layers, int):
        return
    names = gguf.get_tensor_name_map(kind, layers)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name, parameter in model.named_parameters():
        base, dot, ending = name.rpartition(".")
        known = next(filter(None, (names.get_name(prefix + base) for prefix in _PREFIXES)), None)
        tensor = stored.get(f"{known}{dot}{ending}") if known is not None else None
        if tensor is not None and not any(word in tensor.name for word in _COMPUTED):
            yield name, parameter, tensor


def _as_loaded(tensor: Any, like: torch.Tensor, shift: float) -> Array:
    """The numbers of a tensor in the precision of a parameter, as float32."""
    import gguf
    import torch

    values = gguf.dequantize(tensor.data, tensor.tensor_type) + np.float32(shift)
    found: Array = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(like.dtype).float().numpy()
    return found


def _digest(values: Array) -> int:
    """A sum over all elements, the same in any order."""
    flat, total = values.reshape(-1), 0
    for start in range(0, flat.size, _AT_ONCE):
        bits = np.ascontiguousarray(flat[start : start + _AT_ONCE]).view(np.uint32).astype(np.uint64)
        mixed = (bits + np.uint64(1)) * _FACTORS[0]
        mixed ^= mixed >> np.uint64(29)
        mixed *= _FACTORS[1]
        mixed ^= mixed >> np.uint64(32)
        total = (total + int(mixed.sum(dtype=np.uint64))) % 2**64
    return total
