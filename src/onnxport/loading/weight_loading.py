"""How a checkpoint's weights reach the model: left in their files, or loaded by transformers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.checkpoints.packed_weights import PackedWeights
from onnxport.errors import CheckpointError, UsageError
from onnxport.formats.gguf_file import read_gguf_header
from onnxport.loading.gguf import how_to_load
from onnxport.system.memory import require_memory

if TYPE_CHECKING:
    import torch

    from onnxport.loading.options import LoadOptions

# Of parameters that loading computed; below it nobody asks where they are.
_WORTH_A_NOTE_BYTES = 2**24
# What DataParallel, torch.compile and FSDP put before the names of a model's parameters.
_WRAPPED = re.compile(r"(?:(?:module|_orig_mod|_fsdp_wrapped_module)\.)+")


@dataclass(frozen=True)
class LoadPlan:
    """What to call, and with what.

    Attributes:
        cls: class whose `from_pretrained` is called.
        config: its config.
        location: folder of the weights, None where `settings` hold them.
        settings: arguments for this way of loading.
        is_lazy: the weights stay in their files.
        notes: what a user should know.
    """

    cls: Any
    config: Any
    location: Path | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_lazy: bool = False
    notes: tuple[str, ...] = ()


def plan_loading(checkpoint: Checkpoint, folder: Path, auto_class: Any, config: Any, options: LoadOptions) -> LoadPlan:
    """How this checkpoint is loaded.

    Args:
        folder: where its weights are.
        auto_class: the auto class of the task, which has a class for `config`.

    Raises:
        CheckpointError: a file cannot be read, or is not what it says.
        MemoryLimitError: the weights have to be in memory, and do not fit.
    """
    reason = _reason_to_load(checkpoint, config, options) if options.lazy else None
    packed = checkpoint.quantized.weights if checkpoint.quantized is not None else ()
    if packed and options.strip_prefix:
        raise UsageError(
            "--strip-prefix and --dequantize cannot be given together.",
            hint="Save the checkpoint without the wrapper that put the prefix before its names.",
        )
    if (options.lazy and reason is None) or options.strip_prefix or packed:
        from onnxport.weights.lazy import evaluate
        from onnxport.weights.stored import lazy_state_dict

        state: Mapping[str, Any] | None = lazy_state_dict(
            checkpoint.weight_files, checkpoint.weights_format, options.strip_prefix or "", packed
        )
        if state is not None:
            _require_own_names(state, checkpoint, options.strip_prefix)
            config.name_or_path = str(folder)
            cls, config = model_class(auto_class, config)
            is_lazy = options.lazy and reason is None
            if not is_lazy:
                state = {name: evaluate(tensor) for name, tensor in state.items()}
            return LoadPlan(cls, config, None, {"state_dict": state}, is_lazy=is_lazy)
        reason = "they are of a type that torch has no plain tensors for"
    notes: tuple[str, ...] = ()
    if reason is not None:
        what = f"Holding the weights of {checkpoint.source} ({reason})"
        require_memory(_bytes_in_memory(checkpoint, options.dtype), what, "Convert on a machine with more memory.")
        notes = (f"The weights were loaded into memory: {reason}.",)
    if checkpoint.weights_format == "gguf":
        return LoadPlan(*_gguf(checkpoint, auto_class, config), notes=notes)
    if checkpoint.weights_format == "pickle":
        from onnxport.weights.pickles import check_pickles

        check_pickles(checkpoint.weight_files)
    safetensors = checkpoint.weights_format == "safetensors"
    return LoadPlan(auto_class, config, folder, {"use_safetensors": safetensors}, notes=notes)


def _require_own_names(names: Iterable[str], checkpoint: Checkpoint, stripped: str | None) -> None:
    """Refuse names that a wrapper of the training put a prefix before.

    Raises:
        CheckpointError: all names have one.
        UsageError: the prefix to leave out is in no name.
    """
    file = checkpoint.weight_files[0]
    found = {match[0] if (match := _WRAPPED.match(name)) else "" for name in names}
    if len(found) == 1 and "" not in found:
        prefix = found.pop()
        raise CheckpointError(
            f"All names of weights in {file.name} begin with {prefix!r}: a model was saved inside of a wrapper "
            "(DataParallel or torch.compile).",
            hint=f"Take the names without it: `--strip-prefix {prefix}` (strip_prefix={prefix!r}).",
        )
    if stripped:
        from onnxport.weights.checkpoint_reader import CheckpointReader

        all_names = CheckpointReader(checkpoint.weight_files, checkpoint.weights_format).names
        if not any(name.startswith(stripped) for name in all_names):
            raise UsageError(
                f"No name of a weight in {file.name} begins with {stripped!r}; the first is {all_names[0]!r}.",
                hint="Leave --strip-prefix out, or give the prefix as it stands there.",
            )


def computed_notes(model: torch.nn.Module, missing: Iterable[str]) -> tuple[str, ...]:
    """A note where loading computed on parameters of a lazy model instead of moving them: those are in memory."""
    from onnxport.weights.lazy import LazyTensor

    absent = set(missing)
    held = [
        parameter
        for name, parameter in model.named_parameters()
        if not isinstance(parameter, LazyTensor) and name not in absent
    ]
    size = sum(parameter.numel() * parameter.element_size() for parameter in held)
    if size < _WORTH_A_NOTE_BYTES:
        return ()
    return (f"{len(held)} weights ({size / 1e6:.0f} MB) were computed while loading and held in memory.",)


def dequantized_notes(model: torch.nn.Module, quantized: PackedWeights) -> tuple[str, ...]:
    """Notes on a model whose weights were dequantized.

    Raises:
        CheckpointError: a layer keeps its weight the other way round.
    """
    from transformers.pytorch_utils import Conv1D

    turned = [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    names = {weight.name.removesuffix(".weight") for weight in quantized.weights}
    for name in turned:
        if any(one == name or one.endswith(f".{name}") or name.endswith(f".{one}") for one in names):
            raise CheckpointError(
                f"{name} of {type(model).__name__} keeps its weight transposed (Conv1D); such weights are not "
                "dequantized.",
                hint="Convert the original float checkpoint.",
            )
    what = (
        f"{len(quantized.weights)} weights that are stored quantized ({quantized.method}) were dequantized to float32."
    )
    if not quantized.activations:
        return (what,)
    return (what, "Scales of activations were left out: the converted model does not round its activations.")


def model_class(auto_class: Any, config: Any) -> tuple[Any, Any]:
    """The class that `auto_class` would load and its config; it takes no tensors itself, only names of folders.

    `test_lazy_weights.py` compares this with `auto_class.from_config`.
    """
    if not hasattr(auto_class, "_model_mapping"):
        return auto_class, config  # a class of its own
    found = auto_class._model_mapping[type(config)]
    if isinstance(found, (list, tuple)):
        named = {cls.__name__: cls for cls in found}
        found = next((named[name] for name in config.architectures or () if name in named), found[0])
    text = config.sub_configs.get("text_config")
    return found, config.get_text_config() if text is not None and found.config_class is text else config


def _reason_to_load(checkpoint: Checkpoint, config: Any, options: LoadOptions) -> str | None:
    """Why the weights cannot stay in their files, None if they can."""
    if getattr(config, "quantization_config", None) is not None:
        return "they are quantized"
    if checkpoint.custom_code and options.trust_remote_code:
        return "the model's own code loads them"
    if checkpoint.weights_format == "gguf":
        return "transformers unpacks GGUF files there"
    return "this machine is big-endian" if sys.byteorder != "little" else None


def _gguf(checkpoint: Checkpoint, auto_class: Any, config: Any) -> tuple[Any, Any, Path, dict[str, Any]]:
    cls, location, settings = how_to_load(checkpoint, auto_class, config)
    return cls, config, location, settings


def _bytes_in_memory(checkpoint: Checkpoint, dtype: Any) -> int:
    """Bytes of the weights once they are loaded as `dtype`."""
    import torch

    from onnxport.loading.options import torch_dtype

    loaded, stored = torch_dtype(dtype), getattr(torch, checkpoint.dtype or "float32", None)
    if checkpoint.weights_format == "gguf":  # quantized weights grow several times when they are unpacked
        size = torch.float32.itemsize if loaded == "auto" else loaded.itemsize
        needed: int = size * sum(read_gguf_header(file).elements for file in checkpoint.weight_files)
        return needed
    if loaded == "auto" or not isinstance(stored, torch.dtype):
        return checkpoint.total_bytes
    return int(checkpoint.total_bytes * loaded.itemsize // stored.itemsize)
