"""Which pipeline class and which auto classes serve a task.

Three sources, in this order: this package (what transformers 5 dropped, or never had), the
task table, and transformers' own registry.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxport.errors import TaskError, did_you_mean
from onnxport.tasks import TASKS, Task, find_task

_HERE = "onnxport.pipelines"
_SEQ2SEQ = ("AutoModelForSeq2SeqLM",)


@dataclass(frozen=True)
class PipelineSpec:
    """How a task becomes a pipeline.

    Attributes:
        task: name that the pipeline carries, and that transformers' pipeline classes expect.
        auto: transformers auto classes that hold the model, tried in this order.
        pipeline_class: "package.module.Class", imported on use.
        row: the task's row in the table, or None where onnxport only runs the task (generation).
        defaults: arguments of the pipeline class that differ from its own defaults.
        default_model: the model of the hub that is taken when none is named, or None.
    """

    task: str
    auto: tuple[str, ...]
    pipeline_class: str
    row: Task | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    default_model: str | None = None

    def load_class(self) -> type[Any]:
        """The pipeline class; imports torch and transformers."""
        module, _, name = self.pipeline_class.rpartition(".")
        cls: type[Any] = getattr(importlib.import_module(module), name)
        return cls


_OURS: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    "question-answering": (
        ("AutoModelForQuestionAnswering",),
        f"{_HERE}.question_answering.QuestionAnsweringPipeline",
        "distilbert/distilbert-base-cased-distilled-squad",
    ),
    "next-sentence-prediction": (
        ("AutoModelForNextSentencePrediction",),
        f"{_HERE}.sentence_pairs.NextSentencePredictionPipeline",
        None,
    ),
    "multiple-choice": (("AutoModelForMultipleChoice",), f"{_HERE}.sentence_pairs.MultipleChoicePipeline", None),
    "summarization": (_SEQ2SEQ, f"{_HERE}.text_to_text.SummarizationPipeline", "sshleifer/distilbart-cnn-12-6"),
    "translation": (_SEQ2SEQ, f"{_HERE}.text_to_text.TranslationPipeline", "google-t5/t5-base"),
    "text2text-generation": (_SEQ2SEQ, f"{_HERE}.text_to_text.TextToTextPipeline", "google-t5/t5-base"),
    "image-to-text": (
        ("AutoModelForImageTextToText",),
        f"{_HERE}.images_and_text.ImageToTextPipeline",
        "ydshieh/vit-gpt2-coco-en",
    ),
    "image-text-to-text": (
        ("AutoModelForImageTextToText",),
        f"{_HERE}.images_and_text.ImageTextPipeline",
        None,
    ),
    "visual-question-answering": (
        ("AutoModelForVisualQuestionAnswering",),
        f"{_HERE}.images_and_text.VisualQuestionAnsweringPipeline",
        "dandelin/vilt-b32-finetuned-vqa",
    ),
    "image-to-image": (
        ("AutoModelForImageToImage",),
        f"{_HERE}.image_to_image.ImageToImagePipeline",
        "caidas/swin2SR-classical-sr-x2-64",
    ),
}
_OURS |= {
    "time-series-forecasting": (("AutoModelForForecasting",), f"{_HERE}.series.ForecastPipeline", None),
    "mask-generation": (("AutoModelForMaskGeneration",), f"{_HERE}.masks.PointMaskPipeline", "facebook/sam-vit-huge"),
    "audio-frame-classification": (
        ("AutoModelForAudioFrameClassification",), f"{_HERE}.recordings.AudioFramesPipeline", None,
    ),
    "audio-xvector": (("AutoModelForAudioXVector",), f"{_HERE}.recordings.VoiceVectorPipeline", None),
    "video-classification": (("AutoModelForVideoClassification",), f"{_HERE}.clips.ClipClassificationPipeline", None),
}  # fmt: skip
_OUR_ALIASES = {"vqa": "visual-question-answering"}

# Rows of the table that transformers serves under another task's class.
_SERVED_BY = {"semantic-segmentation": "image-segmentation"}
_DEFAULTS: dict[str, dict[str, Any]] = {"semantic-segmentation": {"subtask": "semantic"}}


def find_spec(name: str) -> PipelineSpec:
    """How the task `name` (canonical, alias or "translation_xx_to_yy") becomes a pipeline.

    Raises:
        TaskError: no such task here or in transformers; names the closest.
    """
    row = _row(name)
    canonical = row.name if row is not None else _OUR_ALIASES.get(name, name)
    ours = "translation" if canonical.startswith("translation_") else canonical
    if ours in _OURS:
        auto, pipeline_class, model = _OURS[ours]
        return PipelineSpec(canonical, auto, pipeline_class, row, _DEFAULTS.get(canonical, {}), model)

    from transformers.pipelines import SUPPORTED_TASKS, TASK_ALIASES

    served = _SERVED_BY.get(canonical, TASK_ALIASES.get(canonical, canonical))
    if served not in SUPPORTED_TASKS:
        known = [*_OURS, *SUPPORTED_TASKS, *TASK_ALIASES, *(task.name for task in TASKS)]
        raise TaskError(f"Unknown task {name!r}.", hint=did_you_mean(name, known))
    entry = SUPPORTED_TASKS[served]
    auto = row.auto if row is not None else tuple(cls.__name__ for cls in entry["pt"])
    default = entry["default"].get("model")
    model = default[0] if (isinstance(default, tuple) and row is None) or served == canonical else None
    return PipelineSpec(canonical, auto, entry["impl"], row, _DEFAULTS.get(canonical, {}), model)


def _row(name: str) -> Task | None:
    try:
        return find_task(name)
    except TaskError:
        return None
