"""Tokens after a prompt: greedy, drawn, or along beams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.decoder import Decoder, Progress
from onnxport.runtime.drawing import chosen_tokens
from onnxport.runtime.generation_settings import GenerationSettings
from onnxport.runtime.rules import Start, apply, rules_for

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


class Answers:
    """What was written so far.

    Args:
        rows: their number.
        ends: tokens that end a row.
        stop: ends rows for another reason.

    Attributes:
        rows: token ids of each answer, up to and with what ended it.
        running: (rows,) bool, those that have not ended.
    """

    def __init__(self, rows: int, ends: Sequence[int] = (), stop: Stop | None = None) -> None:
        self.rows: list[list[int]] = [[] for _ in range(rows)]
        self.running = np.ones(rows, bool)
        self._ends, self._stop = ends, stop

    def add(self, tokens: Ids) -> None:
        """One token more, (rows,); those of rows that have ended are left out."""
        going = np.flatnonzero(self.running)
        for number in going:
            self.rows[number].append(int(tokens[number]))
        self.running &= ~np.isin(tokens, self._ends)
        if self._stop is not None:
            self.running[going] &= ~self._stop([self.rows[number] for number in going])


def generate_tokens(
    decoder: Decoder,
    prompt: Prompt,
    settings: GenerationSettings,
    chunk: int | None = None,
    stop: Stop | None = None,
    answers: Answers | None = None,
) -> Iterator[Ids]:
    """Tokens, one a row at a time, until every row has ended.

    Args:
        chunk: most tokens of the prompt in one call, to bound memory; None is all.
        stop: ends answers beside `settings.eos_token_id`.
        answers: where they are collected.

    Yields:
        (rows,) int64; `settings.pad_token_id` for rows that ended before. With `num_return_sequences` above 1
        there are so many rows for each row of the prompt.

    Raises:
        UsageError: beams are asked for, which have no tokens before their end; or no room for an answer.
    """
    if settings.num_beams > 1:
        raise UsageError("Beams have no text before their end.", hint="Give num_beams=1.")
    rng = np.random.default_rng(settings.seed)
    copies, length = settings.num_return_sequences, prompt.ids.shape[1]
    longest = longest_text(decoder, settings, length)
    rules = rules_for(settings, prompt.start().repeated(copies))
    progress, logits = prefill(decoder, prompt, chunk, copies)
    # With room for the answer, so that no step copies what was there before.
    seen = np.zeros((len(logits), longest), np.int64)
    seen[:, :length] = prompt.ids.repeat(copies, 0)
    made = Answers(len(seen), settings.eos_token_id, stop) if answers is None else answers
    while True:
        scores = apply(rules, seen[:, :length], logits)
        tokens = np.where(made.running, chosen_tokens(scores, settings, rng), settings.pad_token_id)
        made.add(tokens)
        yield tokens
        if not made.running.any() or length + 1 == longest:
            return
        seen[:, length] = tokens
        length += 1
        logits = decoder.step(progress, tokens[:, None])


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
    size = ids.shape[1] if chunk is None or decoder.whole_prompts else chunk
    for begin in range(0, ids.shape[1], size):
        logits = decoder.step(progress, ids[:, begin : begin + size], mask[:, begin : begin + size])
    if copies > 1:
        decoder.select(progress, np.arange(len(ids)).repeat(copies))
        logits = logits.repeat(copies, 0)
    return progress, logits


def generate(
    decoder: Decoder,
    prompt: Prompt,
    settings: GenerationSettings,
    chunk: int | None = None,
    stop: Stop | None = None,
) -> list[list[int]]:
    """Whole answers, `settings.num_return_sequences` for each row of the prompt one after the other.

    Returns:
        Token ids without the prompt, up to and with what ended the answer.

    Raises:
        UsageError: no room for an answer, or ONNX Runtime cannot go on.
    """
    if settings.num_beams > 1:
        from onnxport.runtime.beams import search

        return search(decoder, prompt, settings, chunk, stop)
    answers = Answers(len(prompt.ids) * settings.num_return_sequences, settings.eos_token_id, stop)
    for _ in generate_tokens(decoder, prompt, settings, chunk, answers=answers):
        pass
    return answers.rows
