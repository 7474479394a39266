"""Beam search: several texts are followed at once and the best whole ones are kept; as transformers does it."""

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
# A score that no text has; transformers adds it where a text is out, and float32 makes it the same for all.
_NEVER = np.float32(-1.0e9)


@dataclass
class _Whole:
    """The best texts that have ended, best first.

    Attributes:
        tokens: (prompts, beams, tokens) int64.
        lengths: (prompts, beams) how many of them are the text's.
        scores: (prompts, beams), by their length.
        ended: (prompts, beams) bool; False where there is none yet.
    """

    tokens: Ids
    lengths: Ids
    scores: Scores
    ended: NDArray[np.bool_]


def search(
    decoder: Decoder, prompt: Prompt, settings: GenerationSettings, chunk: int | None = None, stop: Stop | None = None
) -> list[list[int]]:
    """`settings.num_return_sequences` answers for each row of the prompt, best first.

    Args:
        chunk: most tokens of the prompt in one call; None is all.
        stop: ends texts beside `settings.eos_token_id`.

    Returns:
        Token ids without the prompt, up to and with what ended the answer.
    """
    beams, prompts, start = settings.num_beams, len(prompt.ids), prompt.ids.shape[1]
    room = longest_text(decoder, settings, start) - start
    rules = logits_processors_for(settings, prompt.start().repeated(beams))
    rng = np.random.default_rng(settings.seed)
    progress, logits = prefill(decoder, prompt, chunk, beams)
    # So many are looked at that `beams` texts go on even if all ends come first.
    kept = min(max(2, 1 + len(settings.eos_token_id)), logits.shape[1]) * beams
    running = np.zeros((prompts, beams, room), np.int64)
    # All beams begin alike: only the first counts, or all would write the same.
    scores = np.where(np.arange(beams) == 0, np.float32(0), _NEVER)[None].repeat(prompts, 0)
    whole = _Whole(
        np.zeros((prompts, beams, room), np.int64), np.zeros((prompts, beams), np.int64),
        np.full((prompts, beams), _NEVER), np.zeros((prompts, beams), bool),
    )  # fmt: skip
    hopeful = np.ones((prompts, 1), bool)
    before = prompt.ids.repeat(beams, 0)
    for made in range(room):
        seen = np.concatenate([before, running[:, :, :made].reshape(prompts * beams, made)], 1)
        found = apply(rules, seen, log_softmax(logits)).reshape(prompts, beams, -1) + scores[:, :, None]
        vocabulary = found.shape[-1]
        best, places = _best(found.reshape(prompts, -1), kept, rng if settings.do_sample else None)
        parents, tokens = places // vocabulary, places % vocabulary
        candidates = np.take_along_axis(running, parents[:, :, None], 1)
        candidates[:, :, made] = tokens
        ended = np.isin(tokens, settings.eos_token_id)
        if made + 1 == room:
            ended[:] = True
        if stop is not None:
            rows = candidates[:, :, : made + 1].reshape(prompts * kept, made + 1)
            ended |= stop(rows.tolist()).reshape(prompts, kept)
        lowered = best + ended * _NEVER
        chosen = np.argsort(-lowered, 1, kind="stable")[:, :beams]
        running = np.take_along_axis(candidates, chosen[:, :, None], 1)
        scores = np.take_along_axis(lowered, chosen, 1)
        whole = _merged(whole, candidates, best, ended, hopeful, made + 1, settings)
        hopeful = hopeful & _can_improve(scores, whole, made + 1, room, settings)
        full = bool(whole.ended.all()) and settings.early_stopping is True
        if not hopeful.any() or full or ended.all():
            break
        order = np.take_along_axis(parents, chosen, 1) + np.arange(prompts)[:, None] * beams
        decoder.select(progress, order.reshape(-1), fixed=False)
        logits = decoder.step(progress, running[:, :, made].reshape(-1, 1))
    answers = settings.num_return_sequences
    return [
        whole.tokens[row, beam, : whole.lengths[row, beam]].tolist()
        for row in range(prompts)
        for beam in range(answers)
    ]


def _merged(
    whole: _Whole,
    candidates: Ids,
    best: Scores,
    ended: NDArray[np.bool_],
    hopeful: NDArray[np.bool_],
    length: int,
    settings: GenerationSettings,
) -> _Whole:
    """The best of the texts that had ended and of those that end now; only the first `beams` candidates may."""
    beams = settings.num_beams
    ends = ended & (np.arange(ended.shape[1]) < beams)
    scores = best / np.float32(length**settings.length_penalty)
    if settings.early_stopping is True:
        scores += whole.ended.all(1, keepdims=True) * _NEVER
    scores += ~hopeful * _NEVER
    scores += ~ends * _NEVER
    merged = np.concatenate([whole.scores, scores], 1)
    chosen = np.argsort(-merged, 1, kind="stable")[:, :beams]
    lengths = np.concatenate([whole.lengths, np.full(ended.shape, length)], 1)
    return _Whole(
        np.take_along_axis(np.concatenate([whole.tokens, candidates], 1), chosen[:, :, None], 1),
        np.take_along_axis(lengths, chosen, 1),
        np.take_along_axis(merged, chosen, 1),
        np.take_along_axis(np.concatenate([whole.ended, ends], 1), chosen, 1),
    )


def _can_improve(
    scores: Scores, whole: _Whole, length: int, room: int, settings: GenerationSettings
) -> NDArray[np.bool_]:
    """(prompts, 1): whether a running text may still become better than the worst whole one."""
    penalty = settings.length_penalty
    # The longest text has the best score if length is rewarded; else what is true now is taken for the best.
    then = room if settings.early_stopping == "never" and penalty > 0 else length
    best = scores[:, :1] / np.float32(then**penalty)
    worst = np.where(whole.ended, whole.scores.min(1, keepdims=True), _NEVER)
    result: NDArray[np.bool_] = np.any(best > worst, 1, keepdims=True)
    return result


def _best(scores: Scores, count: int, rng: np.random.Generator | None) -> tuple[Scores, Ids]:
    """The `count` best of each row, best first, and their places; with `rng` drawn without putting back."""
    # The largest of scores with Gumbel noise are draws without replacement.
    judged: NDArray[np.floating] = scores if rng is None else scores + rng.gumbel(size=scores.shape)
    count = min(count, scores.shape[1])
    places = np.sort(np.argpartition(-judged, count - 1, 1)[:, :count], 1)
    order = np.argsort(-np.take_along_axis(judged, places, 1), 1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return np.take_along_axis(scores, places, 1), places
