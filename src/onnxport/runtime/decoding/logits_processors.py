"""Logits processors: what the settings forbid, force or make more likely, computed as transformers does in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.decoding.sampling import log_softmax, warp_logits
from onnxport.runtime.decoding.settings import GenerationSettings
from onnxport.runtime.decoding.timestamps import TimestampRules

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]
# (tokens so far (rows, tokens), scores (rows, vocabulary)) -> scores. Scores may be changed in place.
LogitsProcessor = Callable[[Ids, Logits], Logits]
_EXCLUDED = np.float32(-np.inf)


@dataclass(frozen=True)
class PromptContext:
    """What logits processors need to know about the prompt.

    Attributes:
        length: tokens of the prompt, padding included.
        padding: (rows,) tokens of padding on the left of each row.
        encoder_ids: (rows, tokens) input of the encoder, if that is tokens.
    """

    length: int
    padding: Ids
    encoder_ids: Ids | None = None

    def repeated(self, times: int) -> PromptContext:
        """The context with every row `times` times."""
        encoder_ids = None if self.encoder_ids is None else self.encoder_ids.repeat(times, 0)
        return PromptContext(self.length, self.padding.repeat(times), encoder_ids)


def logits_processors_for(settings: GenerationSettings, prompt: PromptContext) -> list[LogitsProcessor]:
    """The processors that the settings ask for, in the order in which transformers applies them."""
    made = (build(settings, prompt) for build in _BUILDERS)
    return [processor for processor in made if processor is not None]


def apply(processors: Sequence[LogitsProcessor], seen: Ids, scores: Logits) -> Logits:
    """Scores after all processors.

    Args:
        seen: (rows, tokens) prompt and answer so far.
        scores: (rows, vocabulary).
    """
    for processor in processors:
        scores = processor(seen, scores)
    return scores


def _sequence_bias(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if not settings.sequence_bias:
        return None
    return lambda seen, scores: scores + _bias(seen, scores, settings.sequence_bias)


def _encoder_repetition_penalty(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if settings.encoder_repetition_penalty == 1 or prompt.encoder_ids is None:
        return None
    ids, inverse = prompt.encoder_ids, 1 / settings.encoder_repetition_penalty
    return lambda _seen, scores: _penalize(ids, scores, inverse)


def _repetition_penalty(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if settings.repetition_penalty == 1:
        return None

    def process(seen: Ids, scores: Logits) -> Logits:
        is_padding = np.arange(seen.shape[1])[None] < prompt.padding[:, None]
        return _penalize(np.where(is_padding, -1, seen), scores, settings.repetition_penalty)

    return process


def _no_repeat_ngrams(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if not settings.no_repeat_ngram_size:
        return None
    return lambda seen, scores: _exclude_ngrams(seen, seen, scores, settings.no_repeat_ngram_size)


def _encoder_no_repeat_ngrams(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if not settings.encoder_no_repeat_ngram_size or prompt.encoder_ids is None:
        return None
    ids, size = prompt.encoder_ids, settings.encoder_no_repeat_ngram_size
    return lambda seen, scores: _exclude_ngrams(ids, seen, scores, size)


def _bad_words(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if not settings.bad_words_ids:
        return None
    ends = [(token,) for token in settings.eos_token_id]
    bad = [(word, -np.inf) for word in settings.bad_words_ids if tuple(word) not in ends]
    return lambda seen, scores: scores + _bias(seen, scores, bad)


def _min_length(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    ends, shortest = settings.eos_token_id, settings.shortest(prompt.length)
    if not ends or not shortest:
        return None
    return lambda seen, scores: _exclude(scores, ends) if seen.shape[1] < shortest else scores


def _forced_bos_token(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    first = settings.forced_bos_token_id
    if first is None:
        return None
    return lambda seen, scores: _force(scores, [first]) if seen.shape[1] == 1 else scores


def _forced_eos_token(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if not settings.forced_eos_token_id:
        return None
    last = settings.longest(prompt.length) - 1
    return lambda seen, scores: _force(scores, settings.forced_eos_token_id) if seen.shape[1] == last else scores


def _remove_invalid_values(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if not settings.remove_invalid_values:
        return None
    return lambda _seen, scores: np.nan_to_num(scores, nan=0.0)


def _length_decay(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    ends = settings.eos_token_id
    if settings.exponential_decay_length_penalty is None or not ends:
        return None
    start, factor = settings.exponential_decay_length_penalty
    first = prompt.length + int(start)
    return lambda seen, scores: _boost(scores, ends, factor, seen.shape[1] - first)


def _suppressed_tokens(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if not settings.suppress_tokens:
        return None
    return lambda _seen, scores: _exclude(scores, settings.suppress_tokens)


def _suppressed_first_tokens(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    tokens = settings.begin_suppress_tokens
    if not tokens:
        return None
    # After a forced first token, the second one is the first that the model chooses.
    first = prompt.length + (prompt.length == 1 and settings.forced_bos_token_id is not None)
    return lambda seen, scores: _exclude(scores, tokens) if seen.shape[1] == first else scores


def _timestamps(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    if settings.first_timestamp_token_id is None or not settings.eos_token_id:
        return None
    first, latest = settings.first_timestamp_token_id, settings.max_initial_timestamp_index
    return TimestampRules(first, settings.eos_token_id[0], prompt.length, latest)


def _warpers(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    return (lambda _seen, scores: warp_logits(scores, settings)) if settings.do_sample else None


def _renormalize(settings: GenerationSettings, prompt: PromptContext) -> LogitsProcessor | None:
    return (lambda _seen, scores: log_softmax(scores)) if settings.renormalize_logits else None


# In the order of transformers' `_get_logits_processor`.
_BUILDERS: tuple[Callable[[GenerationSettings, PromptContext], LogitsProcessor | None], ...] = (
    _sequence_bias, _encoder_repetition_penalty, _repetition_penalty, _no_repeat_ngrams, _encoder_no_repeat_ngrams,
    _bad_words, _min_length, _forced_bos_token, _forced_eos_token, _remove_invalid_values, _length_decay,
    _suppressed_tokens, _suppressed_first_tokens, _timestamps, _warpers, _renormalize,
)  # fmt: skip


def _penalize(tokens: Ids, scores: Logits, penalty: float) -> Logits:
    """CTRL's penalty (arXiv 1909.05858): positive scores are divided by it, negative ones multiplied.

    Args:
        tokens: (rows, any number) whose scores are changed; -1 is no token.
    """
    factor = np.float32(penalty)
    wider = np.concatenate([scores, np.zeros_like(scores[:, :1])], 1)  # index -1 is the added column
    picked = np.take_along_axis(wider, tokens, -1)
    np.put_along_axis(wider, tokens, np.where(picked < 0, picked * factor, picked / factor), -1)
    return wider[:, :-1]


def _exclude_ngrams(known: Ids, seen: Ids, scores: Logits, size: int) -> Logits:
    """Excludes every token that would complete an n-gram of `known`.

    Args:
        known: (rows, any number of tokens).
        size: n.
    """
    if known.shape[1] < size or seen.shape[1] < size - 1:
        return scores
    ngrams = np.lib.stride_tricks.sliding_window_view(known, size, 1)
    same = (ngrams[..., :-1] == seen[:, None, seen.shape[1] + 1 - size :]).all(-1)
    rows, places = np.nonzero(same)
    scores[rows, ngrams[rows, places, -1]] = _EXCLUDED
    return scores


def _bias(seen: Ids, scores: Logits, biases: Sequence[tuple[Sequence[int], float]]) -> Logits:
    """The sum of biases, (rows, vocabulary).

    A bias is added to the last token of its sequence, in rows that end with the tokens before it.
    """
    added = np.zeros_like(scores)
    for sequence, bias in biases:
        if max(sequence) >= scores.shape[1]:
            raise UsageError(f"There is no token {max(sequence)}; the model has {scores.shape[1]}.")
        before = np.asarray(sequence[:-1], np.int64)
        if len(before) <= seen.shape[1]:
            matches = (seen[:, seen.shape[1] - len(before) :] == before).all(-1)
            added[matches, sequence[-1]] += np.float32(bias)
    return added


def _exclude(scores: Logits, tokens: Sequence[int]) -> Logits:
    # generation_config.json of a monolingual Whisper may list tokens that only the multilingual ones have.
    scores[:, [token for token in tokens if token < scores.shape[1]]] = _EXCLUDED
    return scores


def _force(scores: Logits, tokens: Sequence[int]) -> Logits:
    forced = np.full_like(scores, _EXCLUDED)
    forced[:, list(tokens)] = 0
    return forced


def _boost(scores: Logits, tokens: Sequence[int], factor: float, steps: int) -> Logits:
    """Makes tokens more likely by |score| * (factor ** steps - 1)."""
    if steps > 0:
        found = scores[:, list(tokens)]
        added = np.abs(found) * np.float32(factor**steps - 1)
        scores[:, list(tokens)] += np.where(np.isfinite(found), added, 0).astype(np.float32)
    return scores
