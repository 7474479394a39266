"""Tiny encoder-decoders made from configs with a fixed seed, as a table.

folder = save_encoder_decoder("t5", tmp_path / "t5")

Weights are drawn wide enough for greedy generation to wander through the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tests import tiny_tokenizers
from tests.tiny_base import randomize

_SIZES = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "init_std": 0.3,
}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.8}
_MEL = 16  # frequencies; a second of sound is 100 frames
_WHISPER = _SIZES | {"num_mel_bins": _MEL, "max_source_positions": 50, "max_target_positions": 96}
_SPEECH_TO_TEXT = _SIZES | {
    "input_feat_per_channel": _MEL, "max_source_positions": 400, "max_target_positions": 96, "conv_channels": 24,
}  # fmt: skip
_MOONSHINE = {
    "hidden_size": 32, "intermediate_size": 48, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4, "initializer_range": 0.3,
}  # fmt: skip
_VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8, "initializer_range": 0.2,
}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "initializer_range": 0.3}
_TROCR = {
    "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "max_position_embeddings": 96, "init_std": 0.3,
}  # fmt: skip
_BLIP_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "encoder_hidden_size": 40, "initializer_range": 0.3,
}  # fmt: skip
_BLIP_VISION = {
    "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8, "initializer_range": 0.2,
}  # fmt: skip


def _image_parts() -> tuple[Any, ...]:
    return (transformers.ViTImageProcessor(size={"height": 32, "width": 32}),)


# name -> (class, config without tokens, what is saved beside model and tokenizer)
TABLE: dict[str, tuple[str, Any, Callable[[], tuple[Any, ...]]]] = {
    "t5": ("T5ForConditionalGeneration", _T5, tuple),
    # With embeddings of its own for the output, and branches that weigh, it does not say one token for ever.
    "t5-untied": ("T5ForConditionalGeneration", _T5 | {"tie_word_embeddings": False}, tuple),
    "bart": ("BartForConditionalGeneration", _SIZES, tuple),
    "mbart": ("MBartForConditionalGeneration", _SIZES, tuple),
    "marian": ("MarianMTModel", _SIZES, tuple),
    "pegasus": ("PegasusForConditionalGeneration", _SIZES, tuple),
    "m2m_100": ("M2M100ForConditionalGeneration", _SIZES, tuple),
    "whisper": ("WhisperForConditionalGeneration", _WHISPER,
                lambda: (transformers.WhisperFeatureExtractor(feature_size=_MEL, chunk_length=1),)),
    "speech_to_text": ("Speech2TextForConditionalGeneration", _SPEECH_TO_TEXT,
                       lambda: (transformers.Speech2TextFeatureExtractor(feature_size=_MEL, num_mel_bins=_MEL),)),
    "moonshine": ("MoonshineForConditionalGeneration", _MOONSHINE,
                  lambda: (transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True),)),
    "vision-encoder-decoder": ("VisionEncoderDecoderModel", ("gpt2", _GPT2), _image_parts),
    "trocr": ("VisionEncoderDecoderModel", ("trocr", _TROCR), _image_parts),
    "blip": ("BlipForConditionalGeneration", {"text_config": _BLIP_TEXT, "vision_config": _BLIP_VISION},
             lambda: (transformers.BlipImageProcessorPil(size={"height": 32, "width": 32}),)),
}  # fmt: skip


def save_encoder_decoder(name: str, folder: Path, seed: int = 0, vocabulary: int = 0) -> Path:
    """Write a checkpoint; the same seed gives the same weights.

    Args:
        vocabulary: rows of the embedding table, if more than the tokenizer needs.
    """
    class_name, sizes, parts = TABLE[name]
    model_class = getattr(transformers, class_name)
    tokenizer = tiny_tokenizers.roberta()
    tokens = {
        "vocab_size": max(vocabulary, len(tokenizer)), "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id, "max_position_embeddings": 128,
    }  # fmt: skip
    if isinstance(sizes, tuple):
        kind, values = sizes
        decoder = transformers.AutoConfig.for_model(kind, **(tokens | values))
        encoder = transformers.ViTConfig(**_VIT)
        config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        config.decoder_start_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
    elif "text_config" in sizes:
        # Not eos_token_id: it ends where its own `generate` says.
        text = tokens | sizes["text_config"] | {"sep_token_id": tokenizer.mask_token_id}
        config = model_class.config_class(**(sizes | {"text_config": text}))
    else:
        config = model_class.config_class(**(tokens | sizes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    if name == "t5-untied":
        randomize(model, torch.Generator().manual_seed(seed))
    for part in (model, tokenizer, *parts()):
        part.save_pretrained(folder)
    return folder
