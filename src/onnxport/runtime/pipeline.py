"""The pipeline of a converted folder, without a framework."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder, open_folder
from onnxport.errors import TaskError, UnknownPreprocessingError
from onnxport.runtime.execution import running_on
from onnxport.runtime.image_text_generation import has_images_in_text
from onnxport.runtime.sequence_generation import is_encoder_decoder
from onnxport.tasks import Task, find_task

_HERE = "onnxport.runtime.tasks"
# Task -> module and class; of graphs that are run once for each row.
_CLASSES = {
    "fill-mask": "fill_mask.FillMask",
    "text-classification": "text_classification.TextClassification",
    "token-classification": "token_classification.TokenClassification",
    "question-answering": "question_answering.QuestionAnswering",
    "document-question-answering": "document_question_answering.DocumentQuestionAnswering",
    "zero-shot-classification": "zero_shot.ZeroShotClassification",
    "multiple-choice": "sentence_pairs.MultipleChoice",
    "next-sentence-prediction": "sentence_pairs.NextSentence",
    "feature-extraction": "feature_extraction.FeatureExtraction",
    "image-classification": "image_classification.ImageClassification",
    "zero-shot-image-classification": "image_classification.ZeroShotImageClassification",
    "zero-shot-object-detection": "text_detection.TextDetection",
    "object-detection": "object_detection.ObjectDetection",
    "semantic-segmentation": "segmentation.ImageSegmentation",
    "image-segmentation": "segmentation.ImageSegmentation",
    "depth-estimation": "depth_estimation.DepthEstimation",
    "image-feature-extraction": "image_features.ImageFeatures",
    "audio-classification": "audio_classification.AudioClassification",
    "audio-frame-classification": "recordings.AudioFrames",
    "audio-xvector": "recordings.VoiceVector",
    "video-classification": "clip_classification.ClipClassification",
    "time-series-forecasting": "forecasting.Forecasting",
    "image-to-image": "image_to_image.ImageToImage",
    "automatic-speech-recognition": "speech_recognition.SpeechRecognition",
}


def open_pipeline(
    folder: str | Path | Folder,
    task: str | None = None,
    component: str = "model",
    *,
    provider: str | None = None,
    threads: int | None = None,
    **settings: Any,
) -> Any:
    """The pipeline of a folder, with the call, the arguments and the results of transformers' pipeline for the task.

    A pipeline may be called from several threads at once; `close`, or the end of a `with` block, frees its graphs.

    Example:
        classify = open_pipeline("out/my-model")
        classify("I love it.")

    Args:
        folder: a folder that onnxport wrote, by its path or opened already.
        task: its name or an alias; None for the task of the folder.
        component: name of the graph ("model_quantized").
        provider: where the graphs run: "CPU", "CUDA", "CoreML", "DirectML", "OpenVINO" or "WebGPU".
        threads: threads of one operator; None: as many as the process may use processors.
        settings: defaults of the arguments of the call; `batch_size`.

    Raises:
        FolderError: no onnxport folder, no such component, or a file that the task needs is missing.
        TaskError: there is no such task, or it has no pipeline.
        UnknownPreprocessingError: the inputs are prepared by a class of transformers that has no counterpart here.
        UsageError: a setting that the task does not have, or a provider that onnxruntime does not have.
    """
    with running_on(provider, threads):
        return _open(folder, task, component, settings)


def _open(folder: str | Path | Folder, task: str | None, component: str, settings: dict[str, Any]) -> Any:
    opened = open_folder(folder)
    name = task or opened.manifest.task
    row = find_task("translation" if name.startswith("translation_") else name)
    shown = name if name.startswith("translation_") else row.name
    if row.kind == "decoder":
        from onnxport.runtime.tasks.text_generation import TextGeneration

        return TextGeneration(opened, component, shown, **settings)
    if has_images_in_text(opened.names) or row.kind == "image-in-text":
        from onnxport.runtime.tasks.image_text_to_text import ImageTextToText

        return ImageTextToText(opened, component, shown, **settings)
    if row.kind == "image+points":
        from onnxport.runtime.tasks.mask_generation import MaskGeneration

        return MaskGeneration(opened, component, shown, **settings)
    if is_encoder_decoder(opened.names):
        return _sequence_pipeline(row, opened, component, shown, settings)
    if row.name not in _CLASSES:
        raise UnknownPreprocessingError(f"The preprocessing of {row.name}")
    from onnxport.runtime.tasks.model import TaskModel

    module, _, cls = _CLASSES[row.name].rpartition(".")
    return getattr(import_module(f"{_HERE}.{module}"), cls)(TaskModel(opened, component), shown, **settings)


def _sequence_pipeline(row: Task, folder: Folder, component: str, name: str, settings: dict[str, Any]) -> Any:
    """The pipeline of an encoder-decoder."""
    if row.kind == "text":
        from onnxport.runtime.tasks.text_generation import TextToText

        return TextToText(folder, component, name, **settings)
    from onnxport.runtime.tasks.sequence_pipelines import ImageToText, SpeechToText

    if row.kind not in ("image", "audio"):
        raise TaskError(f"An encoder-decoder does not serve the task {row.name}.", hint="Leave the task out.")
    return (ImageToText if row.kind == "image" else SpeechToText)(folder, component, name, **settings)
