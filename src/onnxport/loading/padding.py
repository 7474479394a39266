"""The padding token of a decoder that classifies: transformers finds the last token of each row by it."""

from __future__ import annotations

from typing import Any

_TEXT = "A small sample."


def use_tokenizer_padding(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """Take the tokenizer's padding token where config.json names none; notes about it.

    Without one, such a model refuses more than one row. Nothing is changed where the tokenizer puts its padding token
    into every text too: then no row would end where its user sees it end.

    Args:
        model: of transformers; changed in place.
        tokenizer: None where there is none.
    """
    config = getattr(model, "config", None)
    decides = type(model).__name__.endswith("ForSequenceClassification")
    pad = getattr(tokenizer, "pad_token_id", None)
    if config is None or not decides or pad is None or getattr(config, "pad_token_id", 0) is not None:
        return ()
    ids = tokenizer(_TEXT)["input_ids"]
    if pad in ids:
        return ()
    config.pad_token_id = pad
    text = getattr(config, "get_text_config", lambda: config)()
    text.pad_token_id = pad
    for module in model.modules():  # what its class makes of the config; only training reads it of an embedding
        if "padding_idx" in vars(module) and hasattr(module, "get_input_embeddings"):
            module.padding_idx = module.get_input_embeddings().padding_idx = pad
    return (f"config.json names no padding token; the tokenizer's was used: {tokenizer.pad_token!r} ({pad}).",)
