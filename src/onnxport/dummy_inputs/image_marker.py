"""Find the text that stands for an image in a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# Attributes of processors and tokenizers; the first that works is used.
_NAMES = ("boi_token", "image_token", "fake_image_token")


def image_marker(processor: Any, image_token: int, image: Any) -> str:
    """Return the text that a processor replaces by image tokens, or "" if none is found.

    Args:
        processor: a processor of texts with images.
        image_token: id of the token that stands for one row of image features.
        image: any PIL image, for a trial.
    """
    for marker in _known(processor):
        try:
            encoded = processor(images=[image], text=[f"a {marker} b"], return_tensors="np")
        except Exception:  # processors fail without their own marker with any exception
            continue
        if (np.asarray(encoded["input_ids"]) == image_token).any():
            return marker
    return ""


def _known(processor: Any) -> Iterator[str]:
    for holder in (processor, processor.tokenizer):
        for name in _NAMES:
            marker = getattr(holder, name, None)
            if isinstance(marker, str) and marker:
                yield marker
