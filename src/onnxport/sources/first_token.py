"""What the answer of an encoder-decoder begins with."""

from __future__ import annotations

from typing import Any


def first_token(model: Any) -> int:
    """`decoder_start_token_id`, or the beginning of a text, as `generate` chooses it; a model of either framework."""
    known = [
        getattr(part, name, None)
        for name in ("decoder_start_token_id", "bos_token_id")
        for part in (model.generation_config, model.config, model.config.get_text_config(decoder=True))
    ]
    return next((int(token) for token in known if isinstance(token, int)), 0)
