"""Weights that are the same bytes on every machine.

torch.randn may differ in the last bit between processors. So the floating weights of a tiny model are replaced: by
whole numbers of a counter-based generator, scaled by what the drawn ones were like (mean and spread, to three bits).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

_BITS = 22  # of a drawn number; with three bits of a scale float32 holds the product
_SCALE_BITS = 3


def drawn(name: str, like: np.ndarray) -> np.ndarray:
    """Numbers between mean - sqrt(3) spread and mean + sqrt(3) spread of `like`, decided by the name alone.

    What is constant there varies by a tenth here, so that a mistaken order of weights shows.

    Args:
        name: of the tensor, different for each of a model.
        like: floating, of any shape and what is to be replaced.
    """
    values = like.astype(np.float64)
    if values.size == 0:
        return like
    mean, spread = float(values.mean()), float(values.std())
    if values.size == 1:
        return np.full_like(like, _rounded(mean))
    if spread <= 1e-6 * abs(mean) or spread == 0:
        spread = 0.1 * abs(mean) or 0.1
    elif abs(mean) < spread / 2:
        mean = 0.0
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(values.size) >> np.uint64(64 - _BITS)
    whole = raw.astype(np.int64) - (1 << (_BITS - 1))
    numbers = whole * (_rounded(spread * math.sqrt(3)) / (1 << (_BITS - 1))) + _rounded(mean)
    if values.min() >= 0:  # such as variances
        numbers = np.abs(numbers)
    return numbers.astype(like.dtype).reshape(like.shape)


def _rounded(value: float) -> float:
    """To a few bits: a difference in the last ones of a statistic does not matter then."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(fraction * 2**_SCALE_BITS), exponent - _SCALE_BITS)


def redraw_folder(folder: Path) -> Path:
    """Replace the weights in every safetensors file of a checkpoint; the folder."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        save_file({name: _replaced(name, value) for name, value in tensors.items()}, file, metadata)
    return folder


def redraw_module(module: Any) -> Any:
    """Replace the weights of a torch module; the module."""
    import torch

    with torch.no_grad():
        for name, tensor in sorted(module.named_parameters()):
            tensor.copy_(torch.from_numpy(_replaced(name, tensor.numpy())))
    return module


def redraw_variables(variables: list[Any]) -> None:
    """Replace the numbers of TensorFlow's or Keras' variables."""
    for index, variable in enumerate(variables):
        value = variable.numpy()
        variable.assign(_replaced(f"{index} {value.shape}", value))


def _replaced(name: str, value: np.ndarray) -> np.ndarray:
    return drawn(name, value) if np.issubdtype(value.dtype, np.floating) else value
