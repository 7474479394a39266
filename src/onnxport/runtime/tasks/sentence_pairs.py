"""Whether one sentence follows another, and which of several endings fits best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row, pad_row
from onnxport.runtime.tasks.base import Prepared
from onnxport.runtime.tasks.scores import softmax
from onnxport.runtime.tasks.text_pipeline import TextPipeline


@dataclass(frozen=True)
class PairSettings(EncodingSettings):
    """Arguments of the call: those of the tokenizer. Long texts are cut."""

    truncation: bool | str | None = True


class NextSentence(TextPipeline):
    """`pipeline(text="It rains.", text_pair="The street is wet.")` returns {"is_next": bool, "score": float}.

    `score` is the probability that the second follows the first. Also takes a dict with both, or a list of dicts.
    """

    Settings = PairSettings

    def __call__(
        self,
        inputs: Any = None,
        *,
        text: Any = None,
        text_pair: Any = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Any:
        if inputs is None:
            inputs = {"text": text, "text_pair": text_pair}
        if isinstance(inputs, tuple) and len(inputs) == 2 and all(isinstance(one, str) for one in inputs):
            inputs = dict(zip(("text", "text_pair"), inputs, strict=True))
        return super().__call__(inputs, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: PairSettings) -> Prepared:
        first, second = (item.get(name) if isinstance(item, Mapping) else None for name in ("text", "text_pair"))
        if not (isinstance(first, str) and isinstance(second, str) and first and second):
            raise UsageError("Two sentences are needed.", hint="pipeline(text=..., text_pair=...)")
        return Prepared([self.texts.text_row(first, second, settings)])

    def answer(self, outputs: Sequence[Row], context: Any, settings: PairSettings) -> dict[str, Any]:
        score = float(softmax(outputs[0]["logits"].astype(np.float32))[0])  # class 0: the second follows
        return {"is_next": score >= 0.5, "score": score}


class MultipleChoice(TextPipeline):
    """`pipeline("It rains.", choices=["I get wet.", "I fly."])` returns the choices with scores, best first.

    Each is {"choice": str, "score": float}; the scores sum to 1. Also takes a dict with `text` and `choices`, or a list
    of dicts.
    """

    Settings = PairSettings

    def __call__(self, inputs: Any, *, choices: Any = None, batch_size: int | None = None, **settings: Any) -> Any:
        if choices is not None:
            inputs = {"text": inputs, "choices": list(choices)}
        return super().__call__(inputs, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: PairSettings) -> Prepared:
        choices = item.get("choices") if isinstance(item, Mapping) else None
        if not choices or not isinstance(item.get("text"), str):
            raise UsageError("A text and the choices are needed.", hint="pipeline(text, choices=[...])")
        rows = [self.texts.text_row(item["text"], choice, settings) for choice in choices]
        longest = max(len(row["input_ids"]) for row in rows)
        padded = [pad_row(row, self.texts.padding(), longest, self.texts.side) for row in rows]
        return Prepared([{name: np.stack([row[name] for row in padded]) for name in padded[0]}], list(choices))

    def answer(self, outputs: Sequence[Row], context: Any, settings: PairSettings) -> list[dict[str, Any]]:
        scores = softmax(outputs[0]["logits"].astype(np.float32))
        answers = [{"choice": choice, "score": float(score)} for choice, score in zip(context, scores, strict=True)]
        return sorted(answers, key=lambda answer: -answer["score"])
