"""Inputs that several parts of a processor make together: texts with images or sounds in them, texts beside images."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

_WORDS = ("a", "cat", "dog", "red", "car", "tree")
_MARKER_NAMES = ("image_token", "boi_token", "start_image_token", "audio_token", "placeholder_token")
_MARKERS = ("<image>", "<|image|>", "<|image_pad|>", "<img>", "<|audio|>", "<audio>", "<|AUDIO|>", "")
_RATE = 16000

Tensors = dict[str, torch.Tensor]


def takes_prompts(model: Any) -> bool:
    """Whether features of images or sounds go to the places of tokens of a text."""
    takes = inspect.signature(model.forward).parameters
    masked = "image_embeds_position_mask" in takes or "image_attention_mask" in takes
    return (media_token(model.config) is not None or masked) and "input_ids" in takes


def media_token(config: Any) -> int | None:
    """The token in the place of features; None for models that have none."""
    for one in (config, getattr(config, "vlm_config", None), getattr(config, "thinker_config", None)):
        for name in ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index"):
            token = getattr(one, name, None)
            if isinstance(token, int):
                return token
    return None


def prompt(model: Any, pre: Any, generator: np.random.Generator, *, words: int = 5, sound: bool = False) -> Tensors:
    """One text with an image or a sound, as the processor makes it.

    Args:
        model: for the token that must be there, and the names of its inputs.
        pre: preprocessing with a `processor`.
        generator: of the random numbers.
        words: of the text.
        sound: one second of noise instead of an image.

    Raises:
        ValueError: the processor makes no such text.
    """
    processor = pre.parts.get("processor")
    if processor is None:
        raise ValueError(getattr(pre, "missing", {}).get("processor") or "no processor for texts with images")
    token, errors = media_token(model.config), []
    text = " ".join(generator.choice(_WORDS, words))
    media: dict[str, Any]
    if sound:
        media = {"audio": [generator.standard_normal(_RATE).astype(np.float32) * 0.1]}
    else:
        height, width = generator.integers(60, 120, 2)
        media = {"images": [Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))]}
    found: list[tuple[int, Tensors]] = []
    for marker in dict.fromkeys(_markers(processor)):
        try:
            made = processor(text=[f"{marker} {text}"], **media, return_tensors="pt")
        except Exception as error:  # processors fail without their own marker with any exception
            errors.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        inputs = {key: value for key, value in made.items() if torch.is_tensor(value) and key != "labels"}
        count = 0 if token is None else int((inputs["input_ids"] == token).sum())
        if token is None or count:
            found.append((count, inputs))
    if found:  # processors that add the tokens themselves add them to those of a marker too
        inputs = min(found, key=lambda one: one[0])[1]
        if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
            inputs.setdefault("mm_token_type_ids", (inputs["input_ids"] == token).long())
        return inputs
    raise ValueError("; ".join(dict.fromkeys([*errors[:2], f"the processor adds no token {token}"])))


def _markers(processor: Any) -> Iterator[str]:
    for holder in (processor, getattr(processor, "tokenizer", None)):
        for name in _MARKER_NAMES:
            if isinstance(marker := getattr(holder, name, None), str):
                yield marker
        around = [getattr(holder, name, None) for name in ("image_start_token", "image_token", "image_end_token")]
        if all(isinstance(one, str) for one in around):
            yield "".join(around)
    yield from _MARKERS


def texts(model: Any, tokenizer: Any, generator: np.random.Generator, count: int) -> Tensors:
    """Short texts of different lengths, padded."""
    made = [" ".join(generator.choice(_WORDS, 3 + row)) for row in range(count)]
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 64
    return dict(tokenizer(made, padding=True, return_tensors="pt", truncation=True, max_length=longest))
