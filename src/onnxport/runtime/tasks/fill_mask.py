"""Words for the masked positions of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxport.errors import FolderError, UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.model import TaskModel
from onnxport.runtime.tasks.scores import softmax
from onnxport.runtime.tasks.text_pipeline import TextPipeline


@dataclass(frozen=True)
class MaskSettings:
    """Arguments of the call.

    Attributes:
        top_k: words for each masked position.
        targets: a word or a list of words; only these are scored.
        tokenizer_kwargs: arguments of the tokenizer, those of `EncodingSettings`.
    """

    top_k: int = 5
    targets: str | Sequence[str] | None = None
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)


class FillMask(TextPipeline):
    """`pipeline("Paris is the [MASK] of France.")` returns the best words.

    Each is {"score": float, "token": int, "token_str": str, "sequence": str}. A text with several masks has a list of
    words for each. Settings are those of `MaskSettings`.

    Raises:
        FolderError: the tokenizer has no mask.
    """

    Settings = MaskSettings

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        super().__init__(model, task, **settings)
        mask = self.texts.token_id("mask_token")
        if mask is None:
            raise FolderError(
                f"The tokenizer of {self.folder} has no mask token.", hint="Convert a model that was trained with one."
            )
        self.mask: int = mask

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **settings: Any) -> Any:
        result = super().__call__(inputs, batch_size=batch_size, **settings)
        return result[0] if isinstance(inputs, list) and len(inputs) == 1 else result

    def prepare(self, item: Any, settings: MaskSettings) -> Prepared:
        row = self.texts.text_row(item, settings=encoding_settings(settings.tokenizer_kwargs))
        if self.mask not in row["input_ids"]:
            token = self.texts.config.token("mask_token")
            raise UsageError(f"The text {item!r} has no {token}.", hint=f'"Paris is the {token} of France."')
        return Prepared([row], row["input_ids"])

    def answer(self, outputs: Sequence[Row], context: Any, settings: MaskSettings) -> Any:
        at_least(settings.top_k, 1, "top_k")
        places = np.flatnonzero(context == self.mask)
        scores = softmax(outputs[0]["logits"][places].astype(np.float32))
        known = self._targets(settings.targets) if settings.targets is not None else None
        if known is not None:
            scores = scores[:, known]
        found = []
        for place, row in zip(places, scores, strict=True):
            best = np.argsort(-row, kind="stable")[: settings.top_k]
            tokens = best if known is None else known[best]
            found.append(
                [
                    self._proposal(context, int(place), int(token), float(row[number]), single=len(places) == 1)
                    for token, number in zip(tokens, best, strict=True)
                ]
            )
        return found[0] if len(found) == 1 else found

    def _proposal(self, ids: Any, place: int, token: int, score: float, *, single: bool) -> dict[str, Any]:
        filled = ids.copy()
        filled[place] = token
        filled = filled[filled != self.texts.token_id("pad_token")]
        return {
            "score": score,
            "token": token,
            "token_str": self.texts.decode([token], skip_special=False),
            # With several masks, the others stay visible.
            "sequence": self.texts.decode(filled.tolist(), skip_special=single),
        }

    def _targets(self, targets: str | Sequence[str]) -> Any:
        """The tokens of words; of a word that is not in the vocabulary its first token.

        Raises:
            UsageError: no word has a token.
        """
        words = [targets] if isinstance(targets, str) else list(targets)
        found = set()
        for word in words:
            token = self.texts.tokenizer.token_to_id(word)
            if token is None:
                pieces = self.texts.encode(word, settings=EncodingSettings(add_special_tokens=False)).ids
                token = pieces[0] if pieces else None
            if token is not None:
                found.add(int(token))
        if not found:
            raise UsageError(f"targets={targets!r} has no word that the model knows.", hint='targets=["capital"]')
        return np.array(list(found))


def encoding_settings(given: Mapping[str, Any]) -> EncodingSettings:
    """Arguments of a tokenizer.

    Raises:
        UsageError: one that does not exist.
    """
    try:
        return EncodingSettings(**given)
    except TypeError:
        known = ", ".join(EncodingSettings.__dataclass_fields__)
        raise UsageError(f"A tokenizer has no arguments {', '.join(given)}.", hint=f"It has {known}.") from None
