"""What follows from tensors of a checkpoint that the model does not hold: an error, or a line in the ledger.

Most checkpoints have some, and most of them are in order: heads of another task, masks and counters that are computed
anew. What nobody can explain is a part of the model that would be lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError
from onnxport.loading.model_classes import class_named
from onnxport.loading.weight_origins import unknown_tensors
from onnxport.loading.weights import LoadedModel, describe_missing

# Floating tables that transformers' models compute from their configuration, and once stored.
_COMPUTED = re.compile(r"(^|\.)(inv_freq|masked_bias|attn\.bias|position_ids|embed_positions\.weights|_float_tensor)$")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
# Of pretraining: a checkpoint keeps these heads whatever class it was saved for.
_PRETRAINING = (
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES", "MODEL_MAPPING_NAMES", "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES",
    "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES",
)  # fmt: skip
_BASE = "MODEL_MAPPING_NAMES"


def judge_unused_weights(
    loaded: LoadedModel, checkpoint: Checkpoint, *, allowed: bool
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(tensor -> why nothing uses it, notes) for the tensors of the checkpoint that the model does not hold.

    Args:
        loaded: the model.
        checkpoint: where it was loaded from.
        allowed: unused tensors were accepted.

    Raises:
        CheckpointError: some that cannot be explained, and that was not allowed.
    """
    unused, reader, model = loaded.origins.unused, loaded.origins.reader, loaded.origins.model
    if not unused or reader is None:
        return {}, ()
    reasons = dict(_harmless(model, unused, reader))
    if checkpoint.quantized is not None:
        activations = checkpoint.quantized.activations
        reasons |= {name: "rounds activations, which stay float32" for name in unused if name in activations}
    left = [name for name in unused if name not in reasons]
    notes: list[str] = []
    if left:
        heads = _other_classes(model, checkpoint, left)
        reasons |= heads
        if heads:
            why = next(iter(heads.values()))
            notes.append(f"Not converted: {describe_missing(heads)} ({why}).")
    left = [name for name in unused if name not in reasons]
    if left and not allowed:
        raise CheckpointError(
            f"{type(model).__name__} has no parameter for {len(left)} tensors of {checkpoint.source}: "
            f"{describe_missing(left)}. What they compute would be missing from the converted model.",
            hint="Choose the task that uses them with `--task`, or convert without them: `--allow-unused-weights`.",
        )
    if left:
        notes.append(f"Not converted, because the model does not use them (it was allowed): {describe_missing(left)}.")
    return {name: reasons.get(name, "allowed by --allow-unused-weights") for name in unused}, tuple(notes)


def _harmless(model: Any, names: Sequence[str], reader: Any) -> Iterator[tuple[str, str]]:
    """What is no weight, or what transformers itself leaves out."""
    patterns = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", None)
    ahead = getattr(config, "num_nextn_predict_layers", None) or getattr(config, "mtp_num_layers", None)
    for name in names:
        layer = _LAYER.search(name)
        if not reader.dtype(name).is_floating_point:
            yield name, "whole numbers, which are not trained"
        elif _of_packed(name, reader) and not reader.tensor(name).any():
            yield name, "a bias of zeros, which AutoGPTQ adds to every layer"
        elif _COMPUTED.search(name):
            yield name, "computed from the configuration"
        elif any(pattern.search(name) for pattern in patterns):
            yield name, f"transformers' {type(model).__name__} leaves it out"
        elif ahead and (".mtp." in f".{name}" or (layers and layer is not None and int(layer[1]) >= layers)):
            yield name, "predicts further tokens"


def _of_packed(name: str, reader: Any) -> bool:
    return name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in reader.packed


def _other_classes(model: Any, checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, str]:
    """What belongs to a class of the same family that the user did not ask for."""
    own = type(model).__name__
    found: dict[str, str] = {}
    declared = next((one for one in map(class_named, checkpoint.architectures) if one is not None), None)
    if declared is not None and declared.__name__ != own:
        held = _known_to(declared, checkpoint, names)
        if _has_a_task(declared.__name__):
            found = dict.fromkeys(held, f"part of {declared.__name__}, and {own} was converted")
        else:
            names = [name for name in names if name not in held]  # what the checkpoint itself is for is lost
    left = [name for name in names if name not in found]
    for cls in _pretraining_classes(getattr(model.config, "model_type", ""), own):
        if not left:
            break
        held = _known_to(cls, checkpoint, left)
        found |= dict.fromkeys(held, f"part of {cls.__name__}, and {own} was converted")
        left = [name for name in left if name not in held]
    return found


def _tables() -> Mapping[str, Mapping[str, Any]]:
    from transformers.models.auto import modeling_auto

    return {name: table for name, table in vars(modeling_auto).items() if name.endswith("_MAPPING_NAMES")}


def _has_a_task(architecture: str) -> bool:
    """Whether a table of transformers lists the class for a task; a base model is for none."""
    return any(
        architecture in ((named,) if isinstance(named, str) else named)
        for table, rows in _tables().items()
        if table != _BASE
        for named in rows.values()
    )


def _pretraining_classes(model_type: str, own: str) -> Iterator[Any]:
    tables = _tables()
    seen = {own}
    for table in _PRETRAINING:
        named = tables.get(table, {}).get(model_type, ())
        for name in (named,) if isinstance(named, str) else named:
            cls = class_named(name)
            if cls is not None and name not in seen:
                seen.add(name)
                yield cls


def _known_to(cls: Any, checkpoint: Checkpoint, names: Iterable[str]) -> set[str]:
    """Those of `names` that `cls` has a parameter for; it is made without memory."""
    import torch
    import transformers

    names = set(names)
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint.model_folder, local_files_only=True)
        if not isinstance(config, cls.config_class):
            config = config.get_text_config()
        with torch.device("meta"):
            return names - unknown_tensors(cls(config), names)
    except Exception:  # a class that cannot be made explains nothing
        return set()
