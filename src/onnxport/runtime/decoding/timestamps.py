"""Whisper's timestamps among the tokens of an answer.

Source: `WhisperTimeStampLogitsProcessor` of transformers 5.23 (generation/logits_process.py), after OpenAI's
`ApplyTimestampRules`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.decoding.sampling import log_softmax

_EXCLUDED = np.float32(-np.inf)


@dataclass(frozen=True)
class TimestampRules:
    """Timestamps come first, in pairs, and do not go back; they are chosen where they are likelier than any text.

    Attributes:
        first: the token of 0 s; every later token is a timestamp, and the one before it says that there are none.
        end: the token that ends an answer.
        length: tokens of the prompt.
        latest: most steps of the first timestamp; None for any.
    """

    first: int
    end: int
    length: int
    latest: int | None = None

    def __call__(self, seen: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (rows, vocabulary) after the rules, for the tokens so far (rows, tokens)."""
        scores = scores.copy()
        scores[:, self.first - 1] = _EXCLUDED
        for row, tokens in enumerate(seen[:, self.length :]):
            self._exclude(scores[row], tokens)
        if seen.shape[1] == self.length:
            scores[:, : self.first] = _EXCLUDED
            if self.latest is not None:
                scores[:, self.first + self.latest + 1 :] = _EXCLUDED
        logarithms = log_softmax(scores)
        times = np.exp(logarithms[:, self.first :]).sum(1)
        with np.errstate(divide="ignore"):
            likelier = np.log(times) > logarithms[:, : self.first].max(1)
        scores[likelier, : self.first] = _EXCLUDED
        return scores

    def _exclude(self, scores: NDArray[np.float32], tokens: NDArray[np.int64]) -> None:
        """What may not follow the tokens of one answer."""
        is_time = tokens >= self.first
        after_time = len(tokens) > 0 and bool(is_time[-1])
        after_two = len(tokens) < 2 or bool(is_time[-2])
        if after_time and after_two:
            scores[self.first :] = _EXCLUDED
        elif after_time:
            scores[: self.end] = _EXCLUDED
        if is_time.any():
            last = int(tokens[is_time][-1])
            scores[self.first : last if after_time and not after_two else last + 1] = _EXCLUDED
