"""Tiny models whose images stand in the sequence of their text, made from configs with a fixed seed, as a table.

folder = save_image_text("llava", tmp_path / "llava")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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
    return _in_tiles(transformers.Idefics3Config, transformers.Idefics3ImageProcessorPil, text, tokenizer, image)


def _smolvlm(text: dict[str, Any], tokenizer: Any, image: int) -> tuple[Any, Any]:
    # Of images and texts its own processor makes the same, and wants torchvision and num2words for videos.
    return _in_tiles(transformers.SmolVLMConfig, transformers.SmolVLMImageProcessorPil, text, tokenizer, image)


def _in_tiles(config: Any, images: Any, text: dict[str, Any], tokenizer: Any, image: int) -> tuple[Any, Any]:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer.add_tokens(
        ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows], special_tokens=True
    )
    made = config(
        vision_config=_VISION, text_config={"model_type": "llama", **text, "vocab_size": text["vocab_size"] + 39},
        scale_factor=2, image_token_id=image,
    )  # fmt: skip
    processor = images(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return made, transformers.Idefics3Processor(processor, tokenizer, image_seq_len=4)


class GridProcessor:
    """Texts with images whose grid says how many image tokens there are, as transformers' `Qwen2VLProcessor` does it.

    That one wants torchvision, for the videos that it takes too.
    """

    image_token = IMAGE

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer

    def __call__(self, images: Any, text: list[str], return_tensors: str = "np", padding: bool = False) -> Any:
        made = self.image_processor(images, return_tensors=return_tensors)
        counts = [int(grid.prod()) // self.image_processor.merge_size**2 for grid in made["image_grid_thw"]]
        texts = []
        for one in text:
            first, *rest = one.split(IMAGE)
            texts.append(first + "".join(f"<start>{IMAGE * counts.pop(0)}<end>{part}" for part in rest))
        tokens = self.tokenizer(texts, return_tensors=return_tensors, padding=padding)
        images_here = tokens["input_ids"] == self.tokenizer.convert_tokens_to_ids(IMAGE)
        kinds = images_here.astype(np.int64) if return_tensors == "np" else images_here.long()
        return {**tokens, **made, "mm_token_type_ids": kinds}

    def save_pretrained(self, folder: Path) -> None:
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


_GRIDS = {"depth": 2, "num_heads": 4, "patch_size": 4, "initializer_range": 0.2}


def _qwen2_vl(text: dict[str, Any], tokenizer: Any, image: int) -> tuple[Any, Any]:
    return _with_grids(transformers.Qwen2VLConfig, _GRIDS | {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
                       text, tokenizer, image)  # fmt: skip


def _qwen2_5_vl(text: dict[str, Any], tokenizer: Any, image: int) -> tuple[Any, Any]:
    vision = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "window_size": 16,
              "fullatt_block_indexes": [1]}  # fmt: skip
    return _with_grids(transformers.Qwen2_5_VLConfig, _GRIDS | vision, text, tokenizer, image)


def _with_grids(config: Any, vision: dict[str, Any], text: dict[str, Any], tokenizer: Any, image: int) -> Any:
    marks = ["<start>", "<end>", "<video>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    first, last, video = tokenizer.convert_tokens_to_ids(marks)
    text = {
        **text, "vocab_size": text["vocab_size"] + 3, "bos_token_id": 0, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }  # fmt: skip
    made = config(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=first, vision_end_token_id=last, tie_word_embeddings=False,
    )  # fmt: skip
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 40 * 40}
    )
    return made, GridProcessor(images, tokenizer)


TABLE = {
    "gemma3": ("Gemma3ForConditionalGeneration", _gemma3),
    "idefics3": ("Idefics3ForConditionalGeneration", _idefics3),
    "llava": ("LlavaForConditionalGeneration", _llava),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", _qwen2_5_vl),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", _qwen2_vl),
    "smolvlm": ("SmolVLMForConditionalGeneration", _smolvlm),
}

# transformers' own is built of what is in the folder; such a model's is made here.
OWN_PROCESSOR = {"qwen2_vl", "qwen2_5_vl"}


def processor_of(name: str, folder: Path) -> Any:
    """What prepares the inputs of a saved model."""
    if name not in OWN_PROCESSOR:
        return transformers.AutoProcessor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return GridProcessor(transformers.AutoImageProcessor.from_pretrained(folder, backend="pil"), tokenizer)


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
