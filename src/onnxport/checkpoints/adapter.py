"""An adapter of peft: a folder with small weights that change those of another checkpoint. Standard library only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointError, UntrustedCheckpointError
from onnxport.formats.json_file import read_object

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
# Weights of a whole model: a folder that has them is converted as that model.
_OWN_WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*.bin", "tf_model*.h5", "*.gguf")
_MERGE = "Merge it with peft's `merge_and_unload()`, write the result with `save_pretrained`, and convert that."
# Settings of LoRA with which the weight is not W + scale * B @ A.
_OTHER_FORMULAS = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "alora_invocation_tokens",
    "target_parameters", "trainable_token_indices", "megatron_config", "arrow_config", "exclude_base",
)  # fmt: skip
# Ways to begin the training that leave the weights of the base as they are.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Adapter:
    """An adapter of the kind LoRA, whose weights are W + scale * B @ A.

    Hu and others, LoRA: https://arxiv.org/abs/2106.09685, formula 3.

    Attributes:
        folder: where it is.
        file: its weights, as safetensors.
        settings: adapter_config.json.
    """

    folder: Path
    file: Path
    settings: dict[str, Any]

    @property
    def base(self) -> str:
        """What adapter_config.json calls the model that it is for, "" if it says nothing."""
        named = self.settings.get("base_model_name_or_path")
        return named if isinstance(named, str) else ""

    @property
    def task_type(self) -> str | None:
        """What it was trained for, in peft's words: "SEQ_CLS", "CAUSAL_LM", ...; None if it does not say."""
        found = self.settings.get("task_type")
        return found if isinstance(found, str) else None

    @property
    def transposed(self) -> bool:
        """Whether the weights that it changes are stored as (inputs, outputs), as GPT-2 has them."""
        return bool(self.settings.get("fan_in_fan_out"))

    def scale(self, module: str) -> float:
        """The factor of B @ A for a module: lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora.

        Raises:
            CheckpointError: adapter_config.json has no such numbers.
        """
        rank = _of_module(self.settings.get("rank_pattern"), module, self.settings.get("r"))
        alpha = _of_module(self.settings.get("alpha_pattern"), module, self.settings.get("lora_alpha"))
        if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
            raise CheckpointError(
                f"{CONFIG} of {self.folder} has r {rank!r} and lora_alpha {alpha!r} for {module}.",
                hint="Copy or download the adapter again.",
            )
        return alpha / math.sqrt(rank) if self.settings.get("use_rslora") else alpha / rank


def _of_module(patterns: Any, module: str, default: Any) -> Any:
    """The value of the first pattern that is the end of the module's name, as peft looks it up."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def find_adapter(folder: Path, *, allow_pickle: bool = False) -> Adapter | None:
    """The adapter in a folder; None where there is none, or the weights of a whole model lie beside it.

    Raises:
        CheckpointError: it is of a kind that cannot be merged here, or has no weights.
        UntrustedCheckpointError: its weights are pickled.
    """
    if not (folder / CONFIG).is_file() or any(True for pattern in _OWN_WEIGHTS for _ in folder.glob(pattern)):
        return None
    settings = read_object(folder / CONFIG)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{folder} holds an adapter of the kind {kind}; onnxport merges LORA.", hint=_MERGE)
    other = [name for name in _OTHER_FORMULAS if settings.get(name)]
    if settings.get("init_lora_weights") not in _PLAIN_BEGINNINGS:
        other.append("init_lora_weights")
    if other:
        shown = ", ".join(f"{name} {settings[name]!r}" for name in other)
        raise CheckpointError(
            f"{CONFIG} of {folder} has {shown}: its weights are not W + scale * B @ A, which is what onnxport merges.",
            hint=_MERGE,
        )
    if not (folder / _WEIGHTS).is_file():
        if (folder / _PICKLED).is_file():
            raise UntrustedCheckpointError(
                f"{folder} has its weights only as pickle ({_PICKLED}), a format that can run code when it is read. "
                "Nothing was read.",
                hint="If you trust its origin, load it with peft and write it again with `save_pretrained`.",
            )
        raise CheckpointError(f"{folder} has an {CONFIG} and no {_WEIGHTS}.", hint="Copy or download it again.")
    return Adapter(folder, folder / _WEIGHTS, settings)


def base_of(adapter: Adapter, chosen: str | None) -> str:
    """The path or hub name of the model that an adapter is for.

    Args:
        adapter: names it in adapter_config.json; a path may be relative to the adapter's folder.
        chosen: what the user gave instead.

    Raises:
        CheckpointError: it names none.
    """
    if chosen is not None:
        return chosen
    if not adapter.base:
        raise CheckpointError(
            f"{CONFIG} of {adapter.folder} does not say which model the adapter is for.",
            hint="Give that model: `--base-model MODEL`.",
        )
    beside = adapter.folder / adapter.base
    return str(beside) if not Path(adapter.base).expanduser().exists() and beside.is_dir() else adapter.base
