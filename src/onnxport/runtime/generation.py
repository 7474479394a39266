"""Tokens after a prompt: by greedy search, sampling or beam search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.logits_processors import apply, logits_processors_for
from onnxport.runtime.decoding.prefill import Ids, Prompt, Stop, longest_text, prefill
from onnxport.runtime.decoding.sampling import sample_tokens
from onnxport.runtime.decoding.settings import GenerationSettings


class Answers:
    """The answers so far.

    Args:
        rows: number of answers.
        ends: tokens that end an answer.
        stop: ends answers for another reason.

    Attributes:
        rows: token ids of each answer, up to and including the token that ended it.
        running: (rows,) bool, the answers that have not ended.
    """

    def __init__(self, rows: int, ends: Sequence[int] = (), stop: Stop | None = None) -> None:
        self.rows: list[list[int]] = [[] for _ in range(rows)]
        self.running = np.ones(rows, bool)
        self._ends, self._stop = ends, stop

    def add(self, tokens: Ids) -> None:
        """Append a token to each row, (rows,); tokens of rows that have ended are ignored."""
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
    """Generate one token a row at a time, until every row has ended.

    Args:
        chunk: most tokens of the prompt in one call, to limit memory; None for all in one.
        stop: ends answers beside `settings.eos_token_id`.
        answers: collects the tokens.

    Yields:
        (rows,) int64; `settings.pad_token_id` for rows that have ended before. Each row of the prompt has
        `settings.num_return_sequences` rows.

    Raises:
        UsageError: beam search, whose tokens are not known before its end; or no room for an answer.
    """
    if settings.num_beams > 1:
        raise UsageError(
            f"Streaming is not available with beam search (num_beams={settings.num_beams}).",
            hint="Leave num_beams out, or set it to 1.",
        )
    rng = np.random.default_rng(settings.seed)
    copies, length = settings.num_return_sequences, prompt.ids.shape[1]
    longest = longest_text(decoder, settings, length)
    processors = logits_processors_for(settings, prompt.context().repeated(copies))
    progress, logits = prefill(decoder, prompt, chunk, copies)
    # Allocated once for prompt and answer, so that no step copies the tokens before it.
    seen = np.zeros((len(logits), longest), np.int64)
    seen[:, :length] = prompt.ids.repeat(copies, 0)
    made = Answers(len(seen), settings.eos_token_id, stop) if answers is None else answers
    while True:
        scores = apply(processors, seen[:, :length], logits)
        tokens = np.where(made.running, sample_tokens(scores, settings, rng), settings.pad_token_id)
        made.add(tokens)
        yield tokens
        if not made.running.any() or length + 1 == longest:
            return
        seen[:, length] = tokens
        length += 1
        with _told_by_positions(settings, prompt):
            logits = decoder.step(progress, tokens[:, None])


def generate(
    decoder: Decoder,
    prompt: Prompt,
    settings: GenerationSettings,
    chunk: int | None = None,
    stop: Stop | None = None,
) -> list[list[int]]:
    """Generate whole answers, `settings.num_return_sequences` for each row of the prompt.

    Example:
        generate(decoder, Prompt(ids), GenerationSettings(max_new_tokens=20, num_beams=4))

    Args:
        chunk: most tokens of the prompt in one call, to limit memory; None for all in one.
        stop: ends answers beside `settings.eos_token_id`.

    Returns:
        Token ids without the prompt, up to and including the token that ended the answer; the answers to one row of
        the prompt are next to each other.

    Raises:
        UsageError: no room for an answer, or ONNX Runtime cannot run the graph on so many tokens.
    """
    if settings.num_beams > 1:
        from onnxport.runtime.decoding.beam_search import search

        with _told_by_positions(settings, prompt):
            return search(decoder, prompt, settings, chunk, stop)
    answers = Answers(len(prompt.ids) * settings.num_return_sequences, settings.eos_token_id, stop)
    for _ in generate_tokens(decoder, prompt, settings, chunk, answers=answers):
        pass
    return answers.rows


@contextmanager
def _told_by_positions(settings: GenerationSettings, prompt: Prompt) -> Iterator[None]:
    """Within it, a graph that fails beyond the model's positions is an error that says so.

    Some models run further than config.json says, so that is no error before the graph fails.

    Raises:
        UsageError: as raised inside, or the number of positions in its place.
    """
    try:
        yield
    except UsageError as error:
        length, positions = prompt.ids.shape[1], settings.positions
        if positions is None or settings.longest(length) <= positions:
            raise
        raise UsageError(
            f"The model has {positions} positions; a prompt of {length} tokens and an answer of "
            f"{settings.longest(length) - length} take more.",
            hint=f"max_new_tokens={max(positions - length, 1)}",
        ) from error
