"""The special tokens that a tokenizer's config names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def special_tokens_in(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, mask_token, ...: strings, or objects with a `content`.

    Args:
        config: of tokenizer_config.json or special_tokens_map.json.

    Example:
        >>> special_tokens_in({"bos_token": "<s>", "pad_token": {"content": "<pad>"}, "model_max_length": 512})
        {'bos_token': '<s>', 'pad_token': '<pad>'}
    """
    found = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found
