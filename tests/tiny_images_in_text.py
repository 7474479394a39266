"""Tiny models whose images stand in the sequence of their text, made from configs with a fixed seed, as a table.

folder = save_image_text("llava", tmp_path / "llava")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests import tiny_tokenizers

IMAGE = "<image>"
_VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8, "initializer_range": 0.2,
}  # fmt: skip
_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "head_dim": 8,
}  # fmt: skip


def _llava(text: dict[str, Any], tokenizer: Any, image: int) -> tuple[Any, Any]:
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_VISION}, text_config={"model_type": "llama", **text},
        image_token_index=image, tie_word_embeddings=True,
    )  # fmt: skip
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return config, processor


TABLE = {"llava": ("LlavaForConditionalGeneration", _llava)}


def save_image_text(name: str, folder: Path, seed: int = 0, vocabulary: int = 0) -> Path:
    """Write a checkpoint; the same seed gives the same weights.

    Args:
        vocabulary: rows of the embedding table, if more than the tokenizer needs.
    """
    class_name, make = TABLE[name]
    tokenizer = tiny_tokenizers.roberta()
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    size = max(vocabulary, len(tokenizer))
    config, processor = make({**_TEXT, "vocab_size": size}, tokenizer, tokenizer.convert_tokens_to_ids(IMAGE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, class_name)(config)
    for part in (model, processor):
        part.save_pretrained(folder)
    return folder
