"""The words that stand for an image in a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# What processors call them; those of the first that works are used.
_NAMES = ("boi_token", "image_token", "fake_image_token")


def image_marker(processor: Any, image_token: int, image: Any) -> str:
    """The words that a processor of texts with images replaces by image tokens; "" where none are found.

    Args:
        image_token: the token that stands for a row of image features.
        image: any PIL image, to try with.
    """
    for marker in _known(processor):
        try:
            made = processor(images=[image], text=[f"a {marker} b"], return_tensors="np")
        except Exception:  # processors refuse a text without their own words with any exception
            continue
        if (np.asarray(made["input_ids"]) == image_token).any():
            return marker
    return ""


def _known(processor: Any) -> Iterator[str]:
    for holder in (processor, processor.tokenizer):
        for name in _NAMES:
            marker = getattr(holder, name, None)
            if isinstance(marker, str) and marker:
                yield marker
