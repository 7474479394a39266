"""How the examples of a model card call each task. Data, one row a task."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Call:
    """How a task is called from Python and JavaScript.

    Attributes:
        python: arguments of the Python pipeline, as source text.
        javascript: arguments in transformers.js, or None where it has no such task.
        javascript_task: its name there, if it is another one.
        javascript_comment: what a user must know about the arguments.
        hub_tag: `pipeline_tag` on model hubs, or None where they know no such task.
    """

    python: str
    javascript: str | None = None
    javascript_task: str | None = None
    javascript_comment: str = ""
    hub_tag: str | None = None


_DECODED = "Outside of a browser, give the samples as a Float32Array instead of a file name."


def _text(example: str, tag: str) -> Call:
    return Call(f'"{example}"', f'"{example}"', hub_tag=tag)


def _image(tag: str, javascript_task: str | None = None) -> Call:
    return Call('"photo.png"', '"photo.png"', javascript_task, hub_tag=tag)


def _audio(file: str, tag: str) -> Call:
    return Call(f'"{file}"', f'"{file}"', javascript_comment=_DECODED, hub_tag=tag)


_CALLS: dict[str, Call] = {
    "fill-mask": _text("Paris is the [MASK] of France.", "fill-mask"),
    "text-classification": _text("I love it.", "text-classification"),
    "text-generation": _text("Once upon a time", "text-generation"),
    "text2text-generation": Call(
        '"translate English to German: Good morning."',
        '"translate English to German: Good morning."',
        hub_tag="text2text-generation",
    ),
    "summarization": Call('"A long text."', '"A long text."', hub_tag="summarization"),
    "translation": Call('"Good morning."', '"Good morning."', hub_tag="translation"),
    "image-to-text": Call('"photo.png"', '"photo.png"', hub_tag="image-to-text"),
    "image-text-to-text": Call('"photo.png", text="What is this?"', hub_tag="image-text-to-text"),
    "token-classification": _text("Ada lives in London.", "token-classification"),
    "feature-extraction": _text("A sentence.", "feature-extraction"),
    "question-answering": Call(
        'question="Who wrote it?", context="Ada wrote it."',
        '"Who wrote it?", "Ada wrote it."',
        hub_tag="question-answering",
    ),
    "document-question-answering": Call(
        'None, "What is the total?", word_boxes=[("Total", [60, 40, 140, 60]), ("42", [150, 40, 190, 60])]',
        hub_tag="document-question-answering",
    ),
    "zero-shot-classification": Call(
        '"A new phone", candidate_labels=["technology", "sport"]',
        '"A new phone", ["technology", "sport"]',
        hub_tag="zero-shot-classification",
    ),
    "multiple-choice": Call('"It rains.", ["I get wet.", "I fly."]', hub_tag="multiple-choice"),
    "next-sentence-prediction": Call('"It rains.", "The street is wet."'),
    "image-classification": _image("image-classification"),
    "object-detection": _image("object-detection"),
    "image-segmentation": _image("image-segmentation"),
    "semantic-segmentation": _image("image-segmentation", "image-segmentation"),
    "depth-estimation": _image("depth-estimation"),
    "image-feature-extraction": _image("image-feature-extraction"),
    "audio-classification": _audio("sound.wav", "audio-classification"),
    "audio-frame-classification": Call('"speech.wav"'),
    "audio-xvector": Call('"speech.wav"'),
    "video-classification": Call('["frame1.png", "frame2.png"]', hub_tag="video-classification"),
    "image-to-image": _image("image-to-image"),
    "automatic-speech-recognition": _audio("speech.wav", "automatic-speech-recognition"),
    "time-series-forecasting": Call('"series.csv"', hub_tag="time-series-forecasting"),
    "mask-generation": Call('"photo.png", input_points=[[320, 240]]', hub_tag="mask-generation"),
    "zero-shot-object-detection": Call(
        '"photo.png", candidate_labels=["a cat", "a dog"]',
        '"photo.png", ["a cat", "a dog"]',
        hub_tag="zero-shot-object-detection",
    ),
    "zero-shot-image-classification": Call(
        '"photo.png", candidate_labels=["a cat", "a dog"]',
        '"photo.png", ["a cat", "a dog"]',
        hub_tag="zero-shot-image-classification",
    ),
}

# Processors of texts with images that need no transformers: those of runtime/preprocessing/images_in_text.py.
IMAGE_TEXT_PROCESSORS = (
    "LlavaProcessor", "Gemma3Processor", "Idefics3Processor", "SmolVLMProcessor", "Qwen2VLProcessor",
    "Qwen2_5_VLProcessor",
)  # fmt: skip

# Suffix of the graph's name to the dtype that transformers.js asks for it with.
_DTYPES = {
    "": "fp32",
    "_fp16": "fp16",
    "_quantized": "q8",
    "_int8": "int8",
    "_uint8": "uint8",
    "_q4": "q4",
    "_q4f16": "q4f16",
    "_bnb4": "bnb4",
}


def call_of(task: str) -> Call:
    """The row of a canonical task name; a bare one for tasks that have none."""
    return _CALLS.get(task, Call("..."))


def javascript_dtype(file: str) -> str | None:
    """The dtype with which transformers.js finds the graph `file`; None if it would not look for it."""
    path = PurePosixPath(file)
    match = re.fullmatch(r"(?:encoder_model|decoder_model_merged|model)(|_\w+)\.onnx", path.name)
    return _DTYPES.get(match[1]) if match and path.parent == PurePosixPath("onnx") else None
