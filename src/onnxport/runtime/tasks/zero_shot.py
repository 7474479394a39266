"""Labels that are given at run time, by entailment: "This example is {label}." follows from the text, or does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row
from onnxport.runtime.tasks.base import Prepared
from onnxport.runtime.tasks.scores import softmax
from onnxport.runtime.tasks.text_pipeline import TextPipeline


@dataclass(frozen=True)
class LabelSettings:
    """Arguments of the call.

    Attributes:
        candidate_labels: a list of labels, or one string with commas.
        hypothesis_template: a sentence with {} in the place of the label.
        multi_label: each label is judged by itself; otherwise the scores of all sum to 1.
    """

    candidate_labels: str | Sequence[str] = ()
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False


class ZeroShotClassification(TextPipeline):
    """`pipeline("A new phone", candidate_labels=["technology", "sport"])` returns labels and scores, best first.

    The answer is {"sequence": str, "labels": [str], "scores": [float]}. Settings are those of `LabelSettings`.
    """

    Settings = LabelSettings
    aliases: ClassVar[Mapping[str, str]] = {"multi_class": "multi_label"}

    def __call__(
        self, inputs: Any = None, candidate_labels: Any = None, *, batch_size: int | None = None, **settings: Any
    ) -> Any:
        if candidate_labels is not None:
            settings["candidate_labels"] = candidate_labels
        given = settings.pop("sequences", inputs) if inputs is None else inputs
        return super().__call__(given, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: LabelSettings) -> Prepared:
        if not isinstance(item, str) or not item:
            raise UsageError("A text is needed, and it must not be empty.", hint='pipeline("A text", ["a", "b"])')
        labels = label_list(settings.candidate_labels)
        hypotheses = hypotheses_of(settings.hypothesis_template, labels)
        cut = EncodingSettings(truncation="only_first")
        rows = []
        for hypothesis in hypotheses:
            try:
                rows.append(self.texts.text_row(item, hypothesis, cut))
            except UsageError:  # the text alone is too short to be cut that far
                rows.append(self.texts.text_row(item, hypothesis))
        return Prepared(rows, (item, labels))

    def answer(self, outputs: Sequence[Row], context: Any, settings: LabelSettings) -> dict[str, Any]:
        text, labels = context
        logits = np.stack([output["logits"] for output in outputs]).astype(np.float32)
        entailment = next(
            (number for name, number in self.model.config.class_of.items() if name.lower().startswith("entail")), -1
        )
        if settings.multi_label or len(labels) == 1:
            contradiction = -1 if entailment == 0 else 0
            scores = softmax(logits[:, [contradiction, entailment]])[:, 1]
        else:
            scores = softmax(logits[:, entailment])
        best = scores.argsort()[::-1]
        return {
            "sequence": text,
            "labels": [labels[place] for place in best],
            "scores": [float(scores[place]) for place in best],
        }


def label_list(given: str | Sequence[str]) -> list[str]:
    """The labels; a string has commas between them.

    Raises:
        UsageError: no labels.
    """
    labels = [label.strip() for label in given.split(",") if label.strip()] if isinstance(given, str) else list(given)
    if not labels:
        raise UsageError("There are no labels.", hint='candidate_labels=["technology", "sport"]')
    return labels


def hypotheses_of(template: str, labels: Sequence[str]) -> list[str]:
    """The template with each label.

    Raises:
        UsageError: the template has no place for a label.
    """
    if template.format(labels[0]) == template:
        raise UsageError(
            f"hypothesis_template={template!r} has no place for a label.", hint='hypothesis_template="This is {}."'
        )
    return [template.format(label) for label in labels]
