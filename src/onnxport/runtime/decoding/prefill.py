"""A prompt, and its first run through a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.decoder import Decoder, Progress
from onnxport.runtime.decoding.logits_processors import Start
from onnxport.runtime.decoding.settings import GenerationSettings

Ids = NDArray[np.int64]


# Answers so far, a list of tokens a row -> (rows,) whether they end there for another reason than a token.
Stop = Callable[[Sequence[Sequence[int]]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Prompt:
    """What an answer goes on from.

    Attributes:
        ids: (rows, tokens) int64; of an encoder-decoder what the decoder begins with.
        mask: the same shape, 0 where a token is padding, which is on the left; None for no padding.
        fixed: what an encoder gave (`Encoder.encode`).
        read: (rows, tokens) what the encoder read, if that is tokens.
    """

    ids: Ids
    mask: Ids | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    read: Ids | None = None

    def start(self) -> Start:
        """Where its answer begins."""
        padding = np.zeros(len(self.ids), np.int64) if self.mask is None else (self.mask != 0).argmax(1)
        return Start(self.ids.shape[1], padding, self.read)


def longest_text(decoder: Decoder, settings: GenerationSettings, prompt: int) -> int:
    """Most tokens of prompt and answer together, for a prompt of `prompt` tokens.

    Where the settings say nothing, an answer to a decoder of a fixed cache ends with its last place.

    Raises:
        UsageError: there is no room for an answer, or the cache is smaller than what is asked for.
    """
    longest, window = settings.longest(prompt), decoder.window
    if window is None:
        return longest
    window.check_length(prompt)
    if settings.max_new_tokens is None and settings.max_length is None:
        return min(longest, window.longest + 1)
    window.check_length(longest - 1)  # the last token is not given to the graph
    return longest


def prefill(
    decoder: Decoder, prompt: Prompt, chunk: int | None = None, copies: int = 1
) -> tuple[Progress, NDArray[np.float32]]:
    """Run the prompt once and go on with `copies` rows of each.

    Returns:
        The progress, and the logits after the prompt, (rows * copies, vocabulary).
    """
    ids, mask = prompt.ids, np.ones_like(prompt.ids) if prompt.mask is None else prompt.mask
    if not ids.size:
        raise UsageError("There is no prompt.")
    progress = decoder.start(len(ids), prompt.fixed)
    size = ids.shape[1] if chunk is None or decoder.needs_full_prefill else chunk
    for begin in range(0, ids.shape[1], size):
        logits = decoder.step(progress, ids[:, begin : begin + size], mask[:, begin : begin + size])
    if copies > 1:
        decoder.select(progress, np.arange(len(ids)).repeat(copies))
        logits = logits.repeat(copies, 0)
    return progress, logits
