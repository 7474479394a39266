"""Tokens after a prompt: greedy, drawn, or along beams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.logits_processors import apply, logits_processors_for
from onnxport.runtime.decoding.prefill import Ids, Prompt, Stop, longest_text, prefill
from onnxport.runtime.decoding.sampling import sample_tokens
from onnxport.runtime.decoding.settings import GenerationSettings


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
    rules = logits_processors_for(settings, prompt.start().repeated(copies))
    progress, logits = prefill(decoder, prompt, chunk, copies)
    # With room for the answer, so that no step copies what was there before.
    seen = np.zeros((len(logits), longest), np.int64)
    seen[:, :length] = prompt.ids.repeat(copies, 0)
    made = Answers(len(seen), settings.eos_token_id, stop) if answers is None else answers
    while True:
        scores = apply(rules, seen[:, :length], logits)
        tokens = np.where(made.running, sample_tokens(scores, settings, rng), settings.pad_token_id)
        made.add(tokens)
        yield tokens
        if not made.running.any() or length + 1 == longest:
            return
        seen[:, length] = tokens
        length += 1
        logits = decoder.step(progress, tokens[:, None])


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
        from onnxport.runtime.decoding.beam_search import search

        return search(decoder, prompt, settings, chunk, stop)
    answers = Answers(len(prompt.ids) * settings.num_return_sequences, settings.eos_token_id, stop)
    for _ in generate_tokens(decoder, prompt, settings, chunk, answers=answers):
        pass
    return answers.rows
