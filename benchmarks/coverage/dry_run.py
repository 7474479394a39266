"""Whether torch runs a model at all, on inputs made here: no code of onnxport is involved."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from benchmarks.coverage import prompts

_TOKENS = 12


def error_of(model: Any, pair: Any, pre: Any) -> str:
    """What `forward` raised, or what made no inputs; "" if it ran and gave finite numbers."""
    try:
        inputs = simple_inputs(model, pair.modality, pre)
    except Exception as error:
        return f"inputs: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
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


Tensors = dict[str, torch.Tensor]


def simple_inputs(
    model: Any, modality: str, pre: Any, *, rows: int = 2, tokens: int = _TOKENS, seed: int = 0
) -> Tensors:
    """Inputs of one modality; a single row where images stand in texts.

    Args:
        model: for the parameters of its `forward`, and its config.
        modality: as in `pairs.MODALITIES`.
        pre: its preprocessing.
        rows: of the batch.
        tokens: of text.
        seed: of the random numbers.

    Raises:
        Exception: whatever a processor raises.
    """
    takes = inspect.signature(model.forward).parameters
    generator = np.random.default_rng([seed, rows, tokens])
    decodes = "decoder_input_ids" in takes and getattr(model.config, "is_encoder_decoder", False)
    if modality == "image and text":
        if prompts.takes_prompts(model):
            inputs = prompts.prompt(model, pre, generator, words=tokens)
        else:
            texts = 2 * rows if "ObjectDetection" in type(model).__name__ else rows + 1
            inputs = prompts.texts(model, pre.parts["tokenizer"], generator, texts) | images(pre, generator, rows)
    elif modality == "series":
        shape = rows, model.config.context_length, model.config.num_input_channels
        return {"past_values": torch.from_numpy(generator.standard_normal(shape).astype(np.float32).cumsum(1))}
    elif modality == "video":
        inputs = clips(model, pre, generator, rows, takes)
    elif modality in ("image", "sound") and prompts.takes_prompts(model):
        inputs = prompts.prompt(model, pre, generator, words=tokens, sound=modality == "sound")
    elif modality == "image":
        inputs = patches(model, generator, rows, takes) or images(pre, generator, rows)
        if "input_ids" in takes and not decodes:  # a decoder that reads images on another way
            inputs["input_ids"] = torch.from_numpy(generator.integers(40, 90, (rows, 5)))
        if "task_inputs" in takes:
            inputs["task_inputs"] = torch.from_numpy(generator.integers(0, 90, (rows, model.config.task_seq_len)))
    elif modality == "sound":
        inputs = sounds(pre, generator, rows)
    else:
        return _only(_tokens(model, generator, rows, tokens, takes), takes)
    if decodes:
        inputs["decoder_input_ids"] = torch.full((len(next(iter(inputs.values()))), 3), 3)
    return _only(inputs, takes)


def _only(inputs: Tensors, takes: Any) -> Tensors:
    return {name: value for name, value in inputs.items() if name in takes or "kwargs" in takes}


def _tokens(model: Any, generator: np.random.Generator, rows: int, tokens: int, takes: Any) -> Tensors:
    kind, config = type(model).__name__, model.config
    shape: tuple[int, ...] = (rows, 2, tokens) if "MultipleChoice" in kind else (rows, tokens)
    if codebooks := getattr(config, "num_codebooks", None):  # a row of each codebook, one below the other
        shape = (rows * codebooks, tokens)
    most = min(getattr(config.get_text_config(), "vocab_size", None) or 64, 300)
    ids = torch.from_numpy(generator.integers(min(40, most // 2), max(most - 40, most // 2 + 1), shape))
    if "QuestionAnswering" in kind and isinstance(separator := getattr(config, "sep_token_id", None), int):
        ids[..., 3:5] = separator  # question and context
    ids[..., -1] = _end(config)  # the heads of encoder-decoders read the end token's state
    inputs = {"input_ids": ids}
    if "attention_mask" in takes:
        inputs["attention_mask"] = torch.ones_like(ids)
    if "bbox" in takes:
        inputs["bbox"] = torch.from_numpy(np.sort(generator.integers(0, 200, (*shape, 4))))
    if {"visual_feats", "visual_pos"} <= set(takes):
        numbers = generator.random((rows, 6, config.visual_feat_dim), np.float32)
        boxes = generator.random((rows, 6, config.visual_pos_dim), np.float32)
        inputs |= {"visual_feats": torch.from_numpy(numbers), "visual_pos": torch.from_numpy(boxes)}
    heads = ("SequenceClassification", "QuestionAnswering")  # these shift the inputs themselves
    decodes = "decoder_input_ids" in takes and getattr(config, "is_encoder_decoder", False)
    if decodes and not any(head in kind for head in heads):
        inputs["decoder_input_ids"] = ids[..., :5].clone()
    return inputs


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
    made = processor(pictures, return_tensors="pt")
    made = {"pixel_values": made} if torch.is_tensor(made) else made
    return {key: value for key, value in made.items() if torch.is_tensor(value)}


def patches(model: Any, generator: np.random.Generator, rows: int, takes: Any) -> Tensors:
    """Images of 4 x 4 patches as the processors of towers for texts with images make them; {} for other models."""
    config, cells = model.config, 16
    size = getattr(config, "patch_size", None)
    grid = next((name for name in ("grid_thw", "image_grid_thw") if name in takes), None)
    if not isinstance(size, int) or not (grid or "spatial_shapes" in takes or "pixel_position_ids" in takes):
        return {}
    channels = getattr(config, "num_channels", None) or getattr(config, "in_channels", None) or 3
    width = channels * (getattr(config, "temporal_patch_size", None) or 1) * size**2
    pixels = torch.from_numpy(generator.random((rows, cells, width), np.float32))
    if grid:
        return {"pixel_values": pixels.reshape(rows * cells, width), grid: torch.tensor([[1, 4, 4]] * rows)}
    places = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy"), -1).reshape(1, cells, 2)
    return {
        "pixel_values": pixels, "pixel_attention_mask": torch.ones((rows, cells), dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]] * rows), "pixel_position_ids": places.repeat(rows, 1, 1),
    }  # fmt: skip


def clips(model: Any, pre: Any, generator: np.random.Generator, rows: int, takes: Any) -> Tensors:
    """Frames of random pixels, as many as the config names."""
    config = model.config
    vision = getattr(config, "vision_config", None) or config
    names = ("num_frames", "frames_per_clip")
    frames = next((number for name in names if isinstance(number := getattr(vision, name, None), int)), 8)
    side = pre.side or getattr(vision, "image_size", None) or getattr(vision, "crop_size", None) or 64
    name = "pixel_values" if "pixel_values" in takes else "pixel_values_videos"
    shape = rows, frames, getattr(vision, "num_channels", 3), side, side
    return {name: torch.from_numpy(generator.standard_normal(shape).astype(np.float32))}


def sounds(pre: Any, generator: np.random.Generator, rows: int) -> dict[str, torch.Tensor]:
    """One second of noise through the feature extractor."""
    extractor = pre.parts.get("feature_extractor") or getattr(pre.parts.get("processor"), "feature_extractor", None)
    if extractor is None:
        return {"input_values": torch.from_numpy(generator.standard_normal((rows, 16000)).astype(np.float32))}
    rate = getattr(extractor, "sampling_rate", 16000)
    waves = [generator.standard_normal(rate).astype(np.float32) * 0.1 for _ in range(rows)]
    made = extractor(waves, sampling_rate=rate, return_tensors="pt")
    return {key: value for key, value in made.items() if torch.is_tensor(value)}
