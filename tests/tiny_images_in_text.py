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


def _gemma3(text: dict[str, Any], tokenizer: Any, image: int) -> tuple[Any, Any]:
    names = {"boi_token": "<start>", "eoi_token": "<end>", "image_token": IMAGE}
    tokenizer.add_tokens([names["boi_token"], names["eoi_token"]], special_tokens=True)
    tokenizer._set_model_specific_special_tokens(special_tokens=names)
    config = transformers.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **_VISION}, mm_tokens_per_image=4, image_token_index=image,
        text_config={**text, "vocab_size": text["vocab_size"] + 2, "sliding_window": 16, "tie_word_embeddings": False,
                     "layer_types": ["sliding_attention", "full_attention"]},
        tie_word_embeddings=False,
    )  # fmt: skip
    images = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    return config, transformers.Gemma3Processor(images, tokenizer, image_seq_length=4)


def _idefics3(text: dict[str, Any], tokenizer: Any, image: int) -> tuple[Any, Any]:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer.add_tokens(
        ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows], special_tokens=True
    )
    config = transformers.Idefics3Config(
        vision_config=_VISION, text_config={"model_type": "llama", **text, "vocab_size": text["vocab_size"] + 39},
        scale_factor=2, image_token_id=image,
    )  # fmt: skip
    images = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return config, transformers.Idefics3Processor(images, tokenizer, image_seq_len=4)


TABLE = {
    "gemma3": ("Gemma3ForConditionalGeneration", _gemma3),
    "idefics3": ("Idefics3ForConditionalGeneration", _idefics3),
    "llava": ("LlavaForConditionalGeneration", _llava),
}


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
        for parameter in model.parameters():
            if parameter.ndim == 2 and not parameter.any():  # as Gemma 3 begins, whose images say nothing then
                torch.nn.init.normal_(parameter, std=0.5)
    for part in (model, processor):
        part.save_pretrained(folder)
    return folder
