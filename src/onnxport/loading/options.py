"""How a model is loaded: what may be read, what the caller chose instead of the checkpoint's own, dtype and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxport.errors import UsageError

COMPONENTS = ("tokenizer", "image_processor", "feature_extractor", "processor")
_NAMED = (
    "allow_missing_weights", "allow_unused_weights", "allow_pickle", "trust_remote_code", "revision", "token",
    "signature", "device", "lazy", "base_model", "strip_prefix", "dequantize",
)  # fmt: skip


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model. `load_options` makes it from the keyword arguments of the public functions.

    Attributes:
        allow_missing_weights: accept random parameters where the checkpoint has no weights.
        allow_unused_weights: accept that tensors of the checkpoint, or parameters of a live module, are not converted.
        allow_pickle: accept pickled weights.
        trust_remote_code: accept the checkpoint's own Python code.
        revision: branch, tag or commit of a model on the hub.
        token: access token of a model on the hub; True takes the stored one.
        signature: the signature of a SavedModel to convert; None: all.
        base_model: of an adapter, the model that it is for, in place of the one that it names.
        strip_prefix: what stands before the names of all tensors of the checkpoint, and is no part of them.
        dequantize: accept a checkpoint with quantized weights; they are loaded as float32.
        dtype: None (float32), "auto" (as stored), a torch dtype or its name.
        device: where the pipeline puts the model; None leaves it on the CPU.
        lazy: leave the weights in their files (`onnxport.weights`), for a conversion, which reads each weight when it
            needs it. Not for models that a user gets.
        components: by name (`COMPONENTS`), a live object or a folder to use instead of the checkpoint's.
        model_kwargs: further arguments of `from_pretrained`.
        pipeline_class: a class to use instead of the task's pipeline class.
        pipeline_arguments: further arguments of the pipeline class.
    """

    allow_missing_weights: bool = False
    allow_unused_weights: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False
    revision: str | None = None
    token: str | bool | None = None
    signature: str | None = None
    base_model: str | None = None
    strip_prefix: str | None = None
    dequantize: bool = False
    dtype: Any = None
    device: Any = None
    lazy: bool = False
    components: Mapping[str, Any] = field(default_factory=dict)
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    pipeline_class: type[Any] | None = None
    pipeline_arguments: Mapping[str, Any] = field(default_factory=dict)

    def chosen(self) -> set[str]:
        """Names of the arguments that the caller gave, other than their defaults."""
        default = LoadOptions()
        named = {name for name in (*_NAMED, "dtype") if getattr(self, name) != getattr(default, name)}
        return named | {name for name, value in self.components.items() if value is not None} | {*self.model_kwargs}


def load_options(arguments: Mapping[str, Any]) -> LoadOptions:
    """Keyword arguments, as `convert`, `verify` and `load_graph_from_args` take them, sorted by what they are for.

    `torch_dtype` is the older name of `dtype`. What has no name here is an argument of `from_pretrained`.

    Example:
        >>> load_options({"allow_pickle": True, "num_labels": 3}).model_kwargs
        {'num_labels': 3}
    """
    rest = dict(arguments)
    named = {name: rest.pop(name) for name in _NAMED if name in rest}
    components = {name: rest.pop(name) for name in COMPONENTS if name in rest}
    older = rest.pop("torch_dtype", None)
    dtype = rest.pop("dtype", None)
    return LoadOptions(**named, dtype=older if dtype is None else dtype, components=components, model_kwargs=rest)


def torch_dtype(dtype: Any) -> Any:
    """A torch dtype, or "auto", from what a user gave; None is float32.

    Raises:
        UsageError: not a floating point dtype.
    """
    import torch

    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(
            f"dtype {dtype!r} is not a floating point type.",
            hint="Use float32, float16, bfloat16 or auto (as stored).",
        )
    return found
