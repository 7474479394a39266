"""How a checkpoint is to be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxport.errors import UsageError


@dataclass(frozen=True)
class LoadOptions:
    """How to load: permissions, type and place.

    Attributes:
        allow_missing_weights: accept parameters that the checkpoint lacks.
        allow_pickle: accept pickled weights.
        trust_remote_code: accept the checkpoint's own Python code.
        dtype: None (float32), "auto" (as stored), a torch dtype or its name.
        device: where the pipeline puts the model; None leaves it on the CPU.
        model_kwargs: further arguments of `from_pretrained`.
        lazy: leave the weights in their files (`onnxport.weights`); for a conversion, which reads each
            of them when it is needed. Not for models that a user gets.
    """

    allow_missing_weights: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False
    dtype: Any = None
    device: Any = None
    model_kwargs: Mapping[str, Any] | None = None
    lazy: bool = False


def torch_dtype(dtype: Any) -> Any:
    """A torch dtype, or "auto", from what a user gave; None is float32.

    Raises:
        UsageError: no floating point type.
    """
    import torch

    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(
            f"{dtype!r} is not a floating point type.", hint="Use float32, float16, bfloat16 or auto (as stored)."
        )
    return found
