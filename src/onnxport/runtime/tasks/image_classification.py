"""Labels of images, and labels that are given at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row, TextEncoder, pad_row
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.fill_mask import encoding_settings
from onnxport.runtime.tasks.image_pipeline import ImagePipeline, ImageSettings
from onnxport.runtime.tasks.model import TaskModel
from onnxport.runtime.tasks.scores import ranked, scored, sigmoid, softmax

_SIGLIP_TOKENS = 64  # the length of every text that SigLIP was trained on


@dataclass(frozen=True)
class ImageClassSettings(ImageSettings):
    """Arguments of the call.

    Attributes:
        top_k: labels of the answer.
        function_to_apply: "softmax", "sigmoid" or "none"; None chooses by the model's problem type and classes.
    """

    top_k: int | None = 5
    function_to_apply: str | None = None


class ImageClassification(ImagePipeline):
    """`pipeline("photo.png")` returns the best labels, [{"label": str, "score": float}].

    Also takes arrays (height, width, channels). Settings are those of `ImageClassSettings`.
    """

    Settings = ImageClassSettings

    def prepare(self, item: Any, settings: ImageClassSettings) -> Prepared:
        return Prepared([self.images(item)]) if isinstance(item, np.ndarray) else super().prepare(item, settings)

    def answer(self, outputs: Sequence[Row], context: Any, settings: ImageClassSettings) -> list[dict[str, Any]]:
        if settings.top_k is not None:
            at_least(settings.top_k, 1, "top_k")
        scores = scored(outputs[0]["logits"], settings.function_to_apply, self.model.config)
        return ranked(scores, self.model.config, settings.top_k)


@dataclass(frozen=True)
class ImageLabelSettings(ImageSettings):
    """Arguments of the call.

    Attributes:
        candidate_labels: a list of labels, or one string with commas.
        hypothesis_template: a sentence with {} in the place of the label.
        tokenizer_kwargs: arguments of the tokenizer, those of `EncodingSettings`.
    """

    candidate_labels: Sequence[str] = ()
    hypothesis_template: str = "This is a photo of {}."
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)


class ZeroShotImageClassification(ImagePipeline):
    """`pipeline("photo.png", candidate_labels=["a cat", "a dog"])` returns scores of the labels, best first.

    The answer is [{"score": float, "label": str}]. Settings are those of `ImageLabelSettings`.

    Raises:
        FolderError: the folder has no tokenizer.json.
    """

    Settings = ImageLabelSettings

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        self.texts = TextEncoder(model.folder.path)
        super().__init__(model, task, **settings)

    def __call__(
        self, inputs: Any = None, candidate_labels: Any = None, *, batch_size: int | None = None, **settings: Any
    ) -> Any:
        if candidate_labels is not None:
            settings["candidate_labels"] = candidate_labels
        return super().__call__(inputs, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: ImageLabelSettings) -> Prepared:
        given = settings.candidate_labels
        labels = [one.strip() for one in given.split(",")] if isinstance(given, str) else list(given)
        if not labels:
            raise UsageError("There are no labels.", hint='candidate_labels=["a cat", "a dog"]')
        texts = [settings.hypothesis_template.format(label) for label in labels]
        image = {name: array[None] for name, array in super().prepare(item, settings).rows[0].items()}
        return Prepared([{**image, **self._text_inputs(texts, settings)}], labels)

    def run(self, rows: Sequence[Row], size: int) -> list[Row]:
        """Each image with its texts; the graph takes both as batches."""
        return [self.model.run_batch(row) for row in rows]

    def _text_inputs(self, texts: Sequence[str], settings: ImageLabelSettings) -> Row:
        """The arrays of the texts, (texts, tokens)."""
        encoding = encoding_settings(settings.tokenizer_kwargs)
        if self._is_siglip() and not settings.tokenizer_kwargs:
            encoding = EncodingSettings(padding="max_length", max_length=_SIGLIP_TOKENS, truncation=True)
        rows = [self.texts.text_row(text, settings=encoding) for text in texts]
        longest = max(len(row["input_ids"]) for row in rows)
        padded = [pad_row(row, self.texts.padding(), longest, self.texts.side) for row in rows]
        return {name: np.stack([row[name] for row in padded]) for name in padded[0]}

    def answer(self, outputs: Sequence[Row], context: Any, settings: ImageLabelSettings) -> list[dict[str, Any]]:
        logits = outputs[0]["logits_per_image"][0].astype(np.float32)
        scores = sigmoid(logits) if self._is_siglip() else softmax(logits)
        pairs = sorted(zip(scores.tolist(), context, strict=True), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in pairs]

    def _is_siglip(self) -> bool:
        return "siglip" in self.model.config.model_type
