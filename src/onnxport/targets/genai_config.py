"""genai_config.json: what onnxruntime-genai must know of a decoder's graph. Data, no library."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxport.artifact.manifest import Component, Manifest
from onnxport.errors import UsageError
from onnxport.runtime.cache.packed_rows import PackedRows
from onnxport.specs import TensorSpec
from onnxport.tensor_names import is_past

CONFIG_NAME = "genai_config.json"
_PAST, _PRESENT = "past_key_values.%d.", "present.%d."
_STATE = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_TOKENS = ("input_ids", "attention_mask", "position_ids")
_OPTIONAL = frozenset({"num_logits_to_keep"})
_RANK = 4
# Where the checkpoint does not say how long a text may be.
_CONTEXT = 2048
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
_SEARCH = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size", "num_beams")


def require_decoder(manifest: Manifest, component: Component) -> tuple[int, int, int]:
    """Whether onnxruntime-genai can run the graph: tokens in, keys and values of one size in every layer.

    Returns:
        Layers, heads of keys and values, features of a head.

    Raises:
        UsageError: it cannot, with the reason.
    """
    names = [spec.name for spec in component.inputs]
    if any(name.startswith("encoder_") or ".encoder." in name for name in names) or any(
        other.name.startswith("encoder_") for other in manifest.components
    ):
        raise _refused(component, "it is one half of an encoder-decoder, and only decoders alone are written for it")
    past = [spec for spec in component.inputs if is_past(spec.name)]
    if not past or "input_ids" not in names:
        raise _refused(component, "it writes no text: it has no states between two calls")
    if any(isinstance(spec.axes[2], int) for spec in past if _STATE.fullmatch(spec.name) and len(spec.axes) == _RANK):
        raise _refused(component, "its cache has a static shape, and onnxruntime-genai needs one that grows")
    odd = [spec.name for spec in past if not _STATE.fullmatch(spec.name) or len(spec.axes) != _RANK]
    if odd:
        raise _refused(component, f"it has states other than keys and values ({odd[0]})")
    others = sorted(set(names) - {*_TOKENS, *_OPTIONAL, *(spec.name for spec in past)})
    if others:
        raise _refused(component, f"it has an input that is not known there ({others[0]})")
    layers = sorted({int(match[1]) for spec in past if (match := _STATE.fullmatch(spec.name))})
    if layers != list(range(len(layers))) or len(past) != 2 * len(layers):
        raise _refused(component, "not every layer has keys and values")
    return len(layers), *_one_size(component, past)


def _one_size(component: Component, past: Sequence[TensorSpec]) -> tuple[int, int]:
    sizes = {(spec.axes[1], spec.axes[3]) for spec in past}
    if len(sizes) > 1:
        shown = ", ".join(f"{heads} heads of {features}" for heads, features in sorted(sizes, key=str))
        raise _refused(component, f"its keys and values have several sizes ({shown})")
    ((heads, features),) = sizes
    if not isinstance(heads, int) or not isinstance(features, int):
        raise _refused(component, "the size of its keys and values is not fixed")
    return heads, features


def _refused(component: Component, reason: str) -> UsageError:
    return UsageError(
        f"onnxruntime-genai cannot run {component.file}: {reason}.",
        hint="onnxport.runtime runs what it writes: `onnxport run FOLDER`.",
    )


def make_config(
    folder: Path, manifest: Manifest, component: Component, file: str, packed: PackedRows | None = None
) -> dict[str, Any]:
    """The content of genai_config.json.

    Args:
        folder: with config.json and generation_config.json, where the checkpoint had them.
        component: the graph.
        file: of the graph that is run, relative to the folder.
        packed: what the graph says of its cache, if it stays in place.

    Raises:
        UsageError: onnxruntime-genai cannot run it.
    """
    layers, heads, features = require_decoder(manifest, component)
    own, generation = _read(folder / "config.json"), _read(folder / "generation_config.json")
    own = {**own, **(own.get("text_config") or {})}
    known = {**own, **{name: value for name, value in generation.items() if value is not None}}
    names = [spec.name for spec in component.inputs]
    attention = next((own[name] for name in ("num_attention_heads", "n_head") if isinstance(own.get(name), int)), heads)
    width = next((own[name] for name in ("hidden_size", "n_embd") if isinstance(own.get(name), int)), heads * features)
    context = next((own[name] for name in _CONTEXT_NAMES if isinstance(own.get(name), int)), _CONTEXT)
    context = min(context, packed.longest) if packed is not None and packed.longest is not None else context
    logits = next(spec for spec in component.outputs if spec.name == "logits")
    return {
        "model": {
            # Any that is no family of its own there: everything else is said below.
            "type": "decoder",
            **_tokens(known),
            "context_length": context,
            "vocab_size": logits.axes[-1],
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": file,
                "num_hidden_layers": layers,
                "num_attention_heads": attention,
                "num_key_value_heads": heads,
                "head_size": features,
                "hidden_size": width,
                "inputs": {
                    **{name: name for name in _TOKENS if name in names},
                    "past_key_names": f"{_PAST}key",
                    "past_value_names": f"{_PAST}value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": f"{_PRESENT}key",
                    "present_value_names": f"{_PRESENT}value",
                },
            },
        },
        "search": {
            **{name: known[name] for name in _SEARCH if known.get(name) is not None},
            "max_length": context,
            # A portable graph gives new buffers; those that it was given stay as they are.
            "past_present_share_buffer": packed is not None,
        },
    }


def _tokens(known: dict[str, Any]) -> dict[str, Any]:
    end = known.get("eos_token_id")
    ends = end if isinstance(end, list) else [end]
    padding = known.get("pad_token_id")
    found = {
        "bos_token_id": known.get("bos_token_id"),
        "eos_token_id": end,
        # Where no row is padded any token will do.
        "pad_token_id": padding if padding is not None else ends[0],
    }
    return {name: value for name, value in found.items() if value is not None}


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
