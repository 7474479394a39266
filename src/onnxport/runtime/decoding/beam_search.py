"""Beam search: the most likely unfinished texts are continued, and the best finished ones are kept.

Source: `_beam_search` of transformers (generation/utils.py), whose tokens it gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.logits_processors import apply, logits_processors_for
from onnxport.runtime.decoding.prefill import Prompt, Stop, longest_text, prefill
from onnxport.runtime.decoding.sampling import log_softmax
from onnxport.runtime.decoding.settings import GenerationSettings

Scores = NDArray[np.float32]
Ids = NDArray[np.int64]
Marks = NDArray[np.bool_]
# The score of a beam that is out. transformers adds it to the score; in float32 all of them become equal.
_NEVER = np.float32(-1.0e9)


@dataclass
class _Running:
    """Unfinished texts.

    Attributes:
        tokens: (prompts, beams, room) int64, without the prompt.
        scores: (prompts, beams) sums of log-probabilities.
        can_win: (prompts, 1) bool, whether one of them may still become better than the finished ones.
    """

    tokens: Ids
    scores: Scores
    can_win: Marks


@dataclass
class _Finished:
    """The best finished texts, best first.

    Attributes:
        tokens: (prompts, beams, room) int64.
        lengths: (prompts, beams) how many of the tokens belong to the text.
        scores: (prompts, beams), with the length penalty.
        exists: (prompts, beams) bool; False where there is none yet.
    """

    tokens: Ids
    lengths: Ids
    scores: Scores
    exists: Marks


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of the running texts by one token, best first.

    Attributes:
        tokens: (prompts, candidates, room).
        scores: (prompts, candidates).
        parents: (prompts, candidates) which beam each continues.
        finished: (prompts, candidates) bool.
    """

    tokens: Ids
    scores: Scores
    parents: Ids
    finished: Marks


def search(
    decoder: Decoder, prompt: Prompt, settings: GenerationSettings, chunk: int | None = None, stop: Stop | None = None
) -> list[list[int]]:
    """`settings.num_return_sequences` answers for each row of the prompt, best first.

    Args:
        chunk: most tokens of the prompt in one call; None for all in one.
        stop: ends texts beside `settings.eos_token_id`.

    Returns:
        Token ids without the prompt, up to and including the token that ended the answer.

    Raises:
        UsageError: no room for an answer, or the decoder cannot run the prompt.
    """
    beams, prompts, length = settings.num_beams, *prompt.ids.shape
    room = longest_text(decoder, settings, length) - length
    processors = logits_processors_for(settings, prompt.context().repeated(beams))
    rng = np.random.default_rng(settings.seed) if settings.do_sample else None
    progress, logits = prefill(decoder, prompt, chunk, beams)
    running, finished = _start(prompts, beams, room)
    before = prompt.ids.repeat(beams, 0)
    for made in range(1, room + 1):
        seen = np.concatenate([before, running.tokens[:, :, : made - 1].reshape(prompts * beams, made - 1)], 1)
        scores = apply(processors, seen, log_softmax(logits)).reshape(prompts, beams, -1)
        candidates = _continue(running, scores, made, settings, rng, stop)
        finished = _keep_best(finished, candidates, running.can_win, made, settings)
        running, parents = _keep_running(running, candidates, finished, made, settings)
        if _is_done(running, candidates, finished, settings):
            break
        order = parents + np.arange(prompts)[:, None] * beams
        decoder.select(progress, order.reshape(-1), encoder_inputs=False)
        logits = decoder.step(progress, running.tokens[:, :, made - 1].reshape(-1, 1))
    return [
        finished.tokens[row, beam, : finished.lengths[row, beam]].tolist()
        for row in range(prompts)
        for beam in range(settings.num_return_sequences)
    ]


def _start(prompts: int, beams: int, room: int) -> tuple[_Running, _Finished]:
    tokens, count = np.zeros((prompts, beams, room), np.int64), (prompts, beams)
    # All beams of a prompt begin alike. Only the first counts, or all would write the same.
    scores = np.where(np.arange(beams) == 0, np.float32(0), _NEVER)[None].repeat(prompts, 0)
    running = _Running(tokens, scores, np.ones((prompts, 1), bool))
    none = np.full(count, _NEVER), np.zeros(count, bool)
    return running, _Finished(tokens.copy(), np.zeros(count, np.int64), *none)


def _continue(
    running: _Running,
    scores: Scores,
    made: int,
    settings: GenerationSettings,
    rng: np.random.Generator | None,
    stop: Stop | None,
) -> _Candidates:
    """The best continuations: so many that `num_beams` unfinished ones remain even if the best of them all end.

    Args:
        scores: (prompts, beams, vocabulary) of the next token.
        made: tokens of a continuation.
    """
    prompts, beams, vocabulary = scores.shape
    count = min(max(2, 1 + len(settings.eos_token_id)), vocabulary) * beams
    total = scores + running.scores[:, :, None]
    best, places = _best(total.reshape(prompts, -1), count, rng)
    parents, last = places // vocabulary, places % vocabulary
    tokens = np.take_along_axis(running.tokens, parents[:, :, None], 1)
    tokens[:, :, made - 1] = last
    finished = np.isin(last, settings.eos_token_id)
    if made == tokens.shape[2]:
        finished[:] = True
    if stop is not None:
        rows = tokens[:, :, :made].reshape(prompts * count, made)
        finished |= stop(rows.tolist()).reshape(prompts, count)
    return _Candidates(tokens, best, parents, finished)


def _keep_best(
    finished: _Finished, candidates: _Candidates, can_win: Marks, made: int, settings: GenerationSettings
) -> _Finished:
    """The best of the texts that were finished before and of the candidates that are.

    A candidate must be among the first `num_beams`.
    """
    beams = settings.num_beams
    ends = candidates.finished & (np.arange(candidates.finished.shape[1]) < beams)
    scores = candidates.scores / np.float32(made**settings.length_penalty)
    if settings.early_stopping is True:
        scores += finished.exists.all(1, keepdims=True) * _NEVER
    scores += ~can_win * _NEVER
    scores += ~ends * _NEVER
    merged = np.concatenate([finished.scores, scores], 1)
    chosen = np.argsort(-merged, 1, kind="stable")[:, :beams]
    lengths = np.concatenate([finished.lengths, np.full(ends.shape, made)], 1)
    return _Finished(
        np.take_along_axis(np.concatenate([finished.tokens, candidates.tokens], 1), chosen[:, :, None], 1),
        np.take_along_axis(lengths, chosen, 1),
        np.take_along_axis(merged, chosen, 1),
        np.take_along_axis(np.concatenate([finished.exists, ends], 1), chosen, 1),
    )


def _keep_running(
    running: _Running, candidates: _Candidates, finished: _Finished, made: int, settings: GenerationSettings
) -> tuple[_Running, Ids]:
    """The best unfinished candidates, and which beams they continue, (prompts, beams)."""
    lowered = candidates.scores + (candidates.finished * _NEVER).astype(np.float32)
    chosen = np.argsort(-lowered, 1, kind="stable")[:, : settings.num_beams]
    tokens = np.take_along_axis(candidates.tokens, chosen[:, :, None], 1)
    scores = np.take_along_axis(lowered, chosen, 1)
    can_win = running.can_win & _can_improve(scores, finished, made, tokens.shape[2], settings)
    return _Running(tokens, scores, can_win), np.take_along_axis(candidates.parents, chosen, 1)


def _is_done(running: _Running, candidates: _Candidates, finished: _Finished, settings: GenerationSettings) -> bool:
    full = settings.early_stopping is True and bool(finished.exists.all())
    return full or not running.can_win.any() or bool(candidates.finished.all())


def _can_improve(scores: Scores, finished: _Finished, made: int, room: int, settings: GenerationSettings) -> Marks:
    """(prompts, 1): whether a running text may still become better than the worst finished one."""
    penalty = settings.length_penalty
    # With early_stopping="never" and a reward for length, the best possible score is that of the longest text.
    # Otherwise transformers estimates it by the score at the present length.
    length = room if settings.early_stopping == "never" and penalty > 0 else made
    best = scores[:, :1] / np.float32(length**penalty)
    worst = np.where(finished.exists, finished.scores.min(1, keepdims=True), _NEVER)
    result: Marks = np.any(best > worst, 1, keepdims=True)
    return result


def _best(scores: Scores, count: int, rng: np.random.Generator | None) -> tuple[Scores, Ids]:
    """The `count` best of each row, best first, and their indices; with `rng` they are drawn without replacement."""
    # The largest of scores with Gumbel noise are draws without replacement (arXiv 1903.06059).
    judged: NDArray[np.floating] = scores if rng is None else scores + rng.gumbel(size=scores.shape)
    count = min(count, scores.shape[1])
    places = np.sort(np.argpartition(-judged, count - 1, 1)[:, :count], 1)
    order = np.argsort(-np.take_along_axis(judged, places, 1), 1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return np.take_along_axis(scores, places, 1), places
