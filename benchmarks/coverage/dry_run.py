"""Whether torch runs a model at all, on inputs made here: no code of onnxport is involved."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

_TOKENS = 12


def error_of(model: Any, pair: Any, pre: Any) -> str | None:
    """What `forward` raised, "" if it ran and gave finite numbers, None if there are no inputs for this kind."""
    try:
        inputs = simple_inputs(model, pair.modality, pre)
    except Exception as error:
        return f"inputs: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if inputs is None:
        return None
    try:
        with torch.no_grad():
            outputs = model(**inputs)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    tensors = [value for value in _tensors(outputs) if value.is_floating_point()]
    if not all(bool(torch.isfinite(value).all()) for value in tensors if value.numel()) and "logits" not in str(
        pair.task
    ):
        return "outputs are not finite" if any(bool(torch.isnan(value).any()) for value in tensors) else ""
    return ""


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [one for inner in value for one in _tensors(inner)] if isinstance(value, (list, tuple)) else []


def simple_inputs(
    model: Any, modality: str, pre: Any, *, rows: int = 2, tokens: int = _TOKENS, seed: int = 0
) -> dict[str, torch.Tensor] | None:
    """Inputs of one modality.

    Args:
        model: for the parameters of its `forward`, and its config.
        modality: as in `pairs.MODALITIES`.
        pre: its preprocessing.
        rows: of the batch.
        tokens: of text.
        seed: of the random numbers.
    """
    takes = inspect.signature(model.forward).parameters
    generator = np.random.default_rng([seed, rows, tokens])
    inputs: dict[str, torch.Tensor] = {}
    if modality == "image and text":
        return None
    if modality == "series":
        shape = rows, model.config.context_length, model.config.num_input_channels
        return {"past_values": torch.from_numpy(generator.standard_normal(shape).astype(np.float32).cumsum(1))}
    if modality == "image":
        inputs |= images(pre, generator, rows)
    elif modality == "sound":
        inputs |= sounds(pre, generator, rows)
        if getattr(model.config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
            inputs["decoder_input_ids"] = torch.full((rows, 3), 3)
    else:
        choices = "MultipleChoice" in type(model).__name__
        shape = (rows, 2, tokens) if choices else (rows, tokens)
        most = min(getattr(model.config.get_text_config(), "vocab_size", None) or 64, 300)
        ids = torch.from_numpy(generator.integers(min(40, most // 2), max(most - 40, most // 2 + 1), shape))
        inputs["input_ids"] = ids
        if "attention_mask" in takes:
            inputs["attention_mask"] = torch.ones_like(ids)
        if "bbox" in takes:
            inputs["bbox"] = torch.from_numpy(np.sort(generator.integers(0, 200, (*shape, 4))))
        heads = ("SequenceClassification", "QuestionAnswering")  # these shift the inputs themselves
        ids[..., -1] = _end(model.config)  # the heads of encoder-decoders read the end token's state
        decodes = "decoder_input_ids" in takes and getattr(model.config, "is_encoder_decoder", False)
        if decodes and not any(head in type(model).__name__ for head in heads):
            inputs["decoder_input_ids"] = ids[..., :5].clone()
    return {name: value for name, value in inputs.items() if name in takes or "kwargs" in takes}


def _end(config: Any) -> int:
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list) else end
    return end if isinstance(end, int) else 2


def images(pre: Any, generator: np.random.Generator, rows: int) -> dict[str, torch.Tensor]:
    """Pictures through the image processor."""
    processor = pre.parts.get("image_processor") or getattr(pre.parts.get("processor"), "image_processor", None)
    if processor is None:
        side = pre.side or 64
        return {"pixel_values": torch.from_numpy(generator.standard_normal((rows, 3, side, side)).astype(np.float32))}
    pictures = [generator.integers(0, 255, (80, 96, 3), dtype=np.uint8) for _ in range(rows)]
    return {key: value for key, value in processor(pictures, return_tensors="pt").items() if torch.is_tensor(value)}


def sounds(pre: Any, generator: np.random.Generator, rows: int) -> dict[str, torch.Tensor]:
    """One second of noise through the feature extractor."""
    extractor = pre.parts.get("feature_extractor") or getattr(pre.parts.get("processor"), "feature_extractor", None)
    if extractor is None:
        return {"input_values": torch.from_numpy(generator.standard_normal((rows, 16000)).astype(np.float32))}
    rate = getattr(extractor, "sampling_rate", 16000)
    waves = [generator.standard_normal(rate).astype(np.float32) * 0.1 for _ in range(rows)]
    made = extractor(waves, sampling_rate=rate, return_tensors="pt")
    return {key: value for key, value in made.items() if torch.is_tensor(value)}
