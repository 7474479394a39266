"""Labels of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.scores import ranked, scored
from onnxport.runtime.tasks.text_pipeline import TextPipeline

_BEST_ALONE = ""  # transformers' way to tell "not given" from None


@dataclass(frozen=True)
class ClassificationSettings(EncodingSettings):
    """Arguments of the call, beside those of the tokenizer.

    Attributes:
        top_k: labels of the answer, None for all. Without it the answer is the best label alone.
        function_to_apply: "softmax", "sigmoid" or "none"; None chooses by the model's problem type and classes.
    """

    top_k: int | str | None = _BEST_ALONE
    function_to_apply: str | None = None


class TextClassification(TextPipeline):
    """`pipeline("A text.")` returns [{"label": str, "score": float}].

    An input is a text, or {"text": ..., "text_pair": ...}. With `top_k` the answer is a list, best first. Settings are
    those of `ClassificationSettings`.
    """

    Settings = ClassificationSettings

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **settings: Any) -> Any:
        result = super().__call__(inputs, batch_size=batch_size, **settings)
        return [result] if isinstance(inputs, str) and "top_k" not in settings else result

    def prepare(self, item: Any, settings: ClassificationSettings) -> Prepared:
        text, pair = _pair_of(item)
        return Prepared([self.texts.text_row(text, pair, settings)])

    def answer(self, outputs: Sequence[Row], context: Any, settings: ClassificationSettings) -> Any:
        scores = scored(outputs[0]["logits"], settings.function_to_apply, self.model.config)
        if settings.top_k == _BEST_ALONE:
            return ranked(scores, self.model.config, 1)[0]
        if settings.top_k is not None:
            at_least(settings.top_k, 1, "top_k")
        return ranked(scores, self.model.config, settings.top_k)  # type: ignore[arg-type]


def _pair_of(item: Any) -> tuple[Any, Any]:
    """Text and second text of an input.

    Raises:
        UsageError: a dict without `text`, or a list.
    """
    if isinstance(item, Mapping):
        if "text" not in item or not set(item) <= {"text", "text_pair"}:
            raise UsageError(
                f"An input has the keys {sorted(map(str, item))}.", hint='{"text": "A text.", "text_pair": "Another."}'
            )
        return item["text"], item.get("text_pair")
    if isinstance(item, (list, tuple)):
        if len(item) == 1 and isinstance(item[0], (list, tuple)) and len(item[0]) == 2:
            return item[0][0], item[0][1]
        raise UsageError("A pair of texts is a dict.", hint='{"text": "A text.", "text_pair": "Another."}')
    return item, None
