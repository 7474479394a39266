"""Tiny decoders made from configs with a fixed seed, as a table.

    folder = save_decoder("llama", tmp_path / "llama")

Weights are drawn wide enough for greedy generation to wander through the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VOCABULARY = 120
WINDOW = 6  # of sliding attention: shorter than any prompt of a test

_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
_LATENT = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 24,
    "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "n_shared_experts": 1, "num_key_value_heads": 4,
}  # fmt: skip
_EXPERTS = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

# model type -> what its config adds
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": _EXPERTS,
    "mixtral": {"num_local_experts": 4},
    "gemma2": {"head_dim": 8, "sliding_window": WINDOW},
    # Tied, it says the same word again and again.
    "gemma3_text": {"head_dim": 8, "tie_word_embeddings": False, **_MIXED},
    "phi3": {},
    "olmo2": {},
    "olmo3": _MIXED,
    "smollm3": {},
    "gpt_neox": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {},
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "granite": {},
    "cohere2": _MIXED,
    "deepseek_v3": _LATENT,
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16},
    "qwen3_5_text": {
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}


def save_decoder(model_type: str, folder: Path, seed: int = 0, tokenizer: Any = None, **changes: Any) -> Path:
    """Write a checkpoint; the same seed gives the same weights.

    Args:
        changes: other values for the config.
        tokenizer: saved beside it and decides the vocabulary; without one there are 120 tokens.
    """
    own = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    common = {k: v for k, v in _COMMON.items() if model_type != "gpt2" or k not in own}
    config = transformers.AutoConfig.for_model(model_type, **(common | DECODERS[model_type] | changes))
    if tokenizer is not None:
        config.vocab_size = len(tokenizer)
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.sep_token_id
        config.bos_token_id = tokenizer.cls_token_id
        tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return folder
