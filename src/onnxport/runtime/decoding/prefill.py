"""A prompt, and its first run through a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.cache.progress import Progress
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.logits_processors import PromptContext
from onnxport.runtime.decoding.settings import GenerationSettings

Ids = NDArray[np.int64]
# Answers so far, a list of tokens a row -> (rows,) bool, which of them end here (beside those with an end token).
Stop = Callable[[Sequence[Sequence[int]]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Prompt:
    """What the decoder starts from.

    Attributes:
        ids: (rows, tokens) int64; of an encoder-decoder the first tokens of the decoder.
        mask: the same shape, 0 where a token is padding, which is on the left; None for no padding.
        encoder_inputs: what `Encoder.encode` returned; empty for a decoder alone.
        encoder_ids: (rows, tokens) input of the encoder, if that is tokens.
    """

    ids: Ids
    mask: Ids | None = None
    encoder_inputs: Mapping[str, Any] = field(default_factory=dict)
    encoder_ids: Ids | None = None

    def context(self) -> PromptContext:
        """What logits processors need to know about it."""
        padding = np.zeros(len(self.ids), np.int64) if self.mask is None else (self.mask != 0).argmax(1)
        return PromptContext(self.ids.shape[1], padding, self.encoder_ids)


def longest_text(decoder: Decoder, settings: GenerationSettings, prompt: int) -> int:
    """Most tokens of prompt and answer together, for a prompt of `prompt` tokens.

    If the settings give no length and the decoder has a static cache, the answer ends when the cache is full.

    Raises:
        UsageError: there is no room for an answer, or the static cache is smaller than the length asked for.
    """
    longest, limit = settings.longest(prompt), decoder.cache.longest
    if limit is None:
        return longest
    decoder.cache.check_length(prompt)
    # The last token of an answer is not passed to the graph.
    if settings.max_new_tokens is None and settings.max_length is None:
        return min(longest, limit + 1)
    decoder.cache.check_length(longest - 1)
    return longest


def prefill(
    decoder: Decoder, prompt: Prompt, chunk: int | None = None, copies: int = 1
) -> tuple[Progress, NDArray[np.float32]]:
    """Run the prompt through the decoder, and copy each row.

    Args:
        chunk: most tokens of the prompt in one call; None for all in one.
        copies: how many copies of each row continue.

    Returns:
        The progress, and the logits after the prompt, (rows * copies, vocabulary).

    Raises:
        UsageError: no prompt, or the decoder cannot run it.
    """
    ids, mask = prompt.ids, np.ones_like(prompt.ids) if prompt.mask is None else prompt.mask
    if not ids.size:
        raise UsageError("There is no prompt.", hint="Give a text, or token ids of shape (rows, tokens).")
    progress = decoder.start(len(ids), prompt.encoder_inputs)
    size = ids.shape[1] if chunk is None or decoder.needs_full_prefill else chunk
    for begin in range(0, ids.shape[1], size):
        logits = decoder.step(progress, ids[:, begin : begin + size], mask[:, begin : begin + size])
    if copies > 1:
        decoder.select(progress, np.arange(len(ids)).repeat(copies))
        logits = logits.repeat(copies, 0)
    return progress, logits
