"""Tiny random models with a fixed seed and a WordPiece tokenizer, written as checkpoints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers

TEXT = (
    "Ada Lovelace wrote the first program in London. It was raining, and the street was wet. "
    "Charles Babbage built an engine of brass, which nobody could finish."
)
QUESTION = "Who wrote the first program?"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(max_length: int = 64) -> Any:
    """A WordPiece tokenizer that knows the words of TEXT, some only in pieces."""
    words = sorted(set(re.findall(r"\w+|[^\w\s]", f"{TEXT} {QUESTION} a photo of cat dog translate to".lower())))
    whole = [word for word in words if len(word) < 6]
    pieces = sorted({piece for word in words if len(word) >= 6 for piece in (word[:3], f"##{word[3:]}")})
    letters = [f"{mark}{letter}" for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = list(dict.fromkeys(_SPECIAL + whole + pieces + letters))
    return transformers.BertTokenizer(
        vocab={word: place for place, word in enumerate(vocabulary)}, model_max_length=max_length
    )


def bert_config(**changes: Any) -> Any:
    """A BERT of one or two layers for the tokenizer above."""
    settings = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        # Large enough that the outputs of different inputs differ visibly.
        "initializer_range": 0.5,
    }
    return transformers.BertConfig(**{**settings, **changes})


def save(folder: Path, model_class: str, config: Any, with_tokenizer: bool = True, dtype: Any = None) -> Path:
    """Write a random model of a transformers class to `folder`; the same seed every time."""
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config)
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder)
    if with_tokenizer:
        tokenizer().save_pretrained(folder)
    return folder
