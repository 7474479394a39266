"""What the settings forbid, force or make likelier: transformers' processors, in its order and in its float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.decoding.sampling import log_softmax, warp_logits
from onnxport.runtime.decoding.settings import GenerationSettings

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]
# (tokens so far (rows, tokens), scores (rows, vocabulary)) -> scores. Scores may be changed in place.
LogitsProcessor = Callable[[Ids, Logits], Logits]
_OUT = np.float32(-np.inf)


@dataclass(frozen=True)
class Start:
    """What rules need to know of where an answer begins.

    Attributes:
        length: tokens of the prompt.
        padding: (rows,) tokens of padding on the left of each row's prompt.
        read: (rows, tokens) what the encoder read, if that is tokens.
    """

    length: int
    padding: Ids
    read: Ids | None = None

    def repeated(self, times: int) -> Start:
        """For rows that come `times` times each."""
        read = None if self.read is None else self.read.repeat(times, 0)
        return Start(self.length, self.padding.repeat(times), read)


def logits_processors_for(settings: GenerationSettings, start: Start) -> list[LogitsProcessor]:
    """The rules of one generation, to be applied in this order."""
    ends, length = list(settings.eos_token_id), start.length
    shortest, longest = settings.shortest(length), settings.longest(length)
    rules: list[LogitsProcessor] = []
    if settings.sequence_bias:
        rules.append(lambda seen, scores: scores + _bias(seen, scores, settings.sequence_bias))
    if settings.encoder_repetition_penalty != 1 and start.read is not None:
        read, inverse = start.read, 1 / settings.encoder_repetition_penalty
        rules.append(lambda _seen, scores: _penalized(read, scores, inverse))
    if settings.repetition_penalty != 1:
        rules.append(lambda seen, scores: _penalized(_unpadded(seen, start), scores, settings.repetition_penalty))
    if settings.no_repeat_ngram_size:
        rules.append(lambda seen, scores: _no_repeat(seen, seen, scores, settings.no_repeat_ngram_size))
    if settings.encoder_no_repeat_ngram_size and start.read is not None:
        known, size = start.read, settings.encoder_no_repeat_ngram_size
        rules.append(lambda seen, scores: _no_repeat(known, seen, scores, size))
    if settings.bad_words_ids:
        bad = [(word, -np.inf) for word in settings.bad_words_ids if not (len(word) == 1 and word[0] in ends)]
        rules.append(lambda seen, scores: scores + _bias(seen, scores, bad))
    if ends and shortest:
        rules.append(lambda seen, scores: _without(scores, ends) if seen.shape[1] < shortest else scores)
    if (first := settings.forced_bos_token_id) is not None:
        rules.append(lambda seen, scores: _only(scores, [first]) if seen.shape[1] == 1 else scores)
    if last := list(settings.forced_eos_token_id):
        rules.append(lambda seen, scores: _only(scores, last) if seen.shape[1] == longest - 1 else scores)
    if settings.remove_invalid_values:
        rules.append(lambda _seen, scores: np.nan_to_num(scores, nan=0.0))
    if settings.exponential_decay_length_penalty is not None and ends:
        after, factor = settings.exponential_decay_length_penalty
        rules.append(lambda seen, scores: _likelier(scores, ends, factor, seen.shape[1] - int(after) - length))
    if settings.suppress_tokens:
        rules.append(lambda _seen, scores: _without(scores, settings.suppress_tokens))
    if settings.begin_suppress_tokens:
        begin = length + (length == 1 and settings.forced_bos_token_id is not None)
        rules.append(
            lambda seen, scores: _without(scores, settings.begin_suppress_tokens) if seen.shape[1] == begin else scores
        )
    if settings.do_sample:
        rules.append(lambda _seen, scores: warp_logits(scores, settings))
    if settings.renormalize_logits:
        rules.append(lambda _seen, scores: log_softmax(scores))
    return rules


def apply(rules: Sequence[LogitsProcessor], seen: Ids, scores: Logits) -> Logits:
    """Scores after all rules."""
    for rule in rules:
        scores = rule(seen, scores)
    return scores


def _penalized(tokens: Ids, scores: Logits, penalty: float) -> Logits:
    """CTRL (arXiv 1909.05858): divides what is above zero and multiplies what is below; -1 is no token."""
    factor = np.float32(penalty)
    wider = np.concatenate([scores, np.zeros_like(scores[:, :1])], 1)  # its last column is that of -1
    picked = np.take_along_axis(wider, tokens, -1)
    np.put_along_axis(wider, tokens, np.where(picked < 0, picked * factor, picked / factor), -1)
    return wider[:, :-1]


def _unpadded(seen: Ids, start: Start) -> Ids:
    return np.where(np.arange(seen.shape[1])[None] < start.padding[:, None], -1, seen)


def _no_repeat(known: Ids, seen: Ids, scores: Logits, size: int) -> Logits:
    """Forbids what followed in `known` (rows, any) wherever the last size - 1 tokens of `seen` came up in it."""
    if known.shape[1] < size or seen.shape[1] < size - 1:
        return scores
    runs = np.lib.stride_tricks.sliding_window_view(known, size, 1)
    same = (runs[..., :-1] == seen[:, None, seen.shape[1] + 1 - size :]).all(-1)
    rows, places = np.nonzero(same)
    scores[rows, runs[rows, places, -1]] = _OUT
    return scores


def _bias(seen: Ids, scores: Logits, biases: Sequence[tuple[Sequence[int], float]]) -> Logits:
    """What is added: for each (run of tokens, number) to its last token, in rows that end in the others."""
    added = np.zeros_like(scores)
    for run, number in biases:
        if max(run) >= scores.shape[1]:
            raise UsageError(f"There is no token {max(run)}; the model has {scores.shape[1]}.")
        before = np.asarray(run[:-1], np.int64)
        if len(before) <= seen.shape[1]:
            added[(seen[:, seen.shape[1] - len(before) :] == before).all(-1), run[-1]] += np.float32(number)
    return added


def _without(scores: Logits, tokens: Sequence[int]) -> Logits:
    # A list for all languages may name tokens that this model has not.
    scores[:, [token for token in tokens if token < scores.shape[1]]] = _OUT
    return scores


def _only(scores: Logits, tokens: Sequence[int]) -> Logits:
    forced = np.full_like(scores, _OUT)
    forced[:, list(tokens)] = 0
    return forced


def _likelier(scores: Logits, tokens: Sequence[int], factor: float, steps: int) -> Logits:
    if steps > 0:
        found = scores[:, list(tokens)]
        added = np.abs(found) * np.float32(factor**steps - 1)
        scores[:, list(tokens)] += np.where(np.isfinite(found), added, 0).astype(np.float32)
    return scores
