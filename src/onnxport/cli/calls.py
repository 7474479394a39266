"""How the inputs of `onnxport run` become calls of a pipeline, for each task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxport.errors import UsageError
from onnxport.formats.json_file import read_json
from onnxport.tasks import IMAGE_AND_TEXTS, Task


@dataclass(frozen=True)
class Call:
    """One call of a pipeline.

    Attributes:
        shown: the input, as the user wrote it.
        arguments, keywords: of the call.
    """

    shown: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


def calls_for(task: Task, inputs: Sequence[str], pipeline: Any) -> list[Call]:
    """One call for each input, or one call for all if the task takes several together.

    Raises:
        UsageError: too few or too many inputs for the task, or a file that cannot be read.
    """
    return _BY_TASK.get(task.name, _BY_KIND.get(task.kind, _texts))(task, list(inputs), pipeline)


def record_call(task: Task, record: Mapping[str, Any], pipeline: Any) -> Call:
    """The call for an input that is a JSON object, such as {"text": "A text.", "candidate_labels": ["a", "b"]}.

    Raises:
        UsageError: no key names the input.
    """
    shown = json.dumps(record, ensure_ascii=False)
    if task.name in _TAKES_OBJECTS:
        return Call(shown, (dict(record),))
    if task.kind == "image-in-text" and "messages" not in record:
        return _images_and_text(task, record, pipeline, shown)
    main = next((name for name in _MAIN if name in record), None)
    if main is None:
        raise UsageError(f"{shown} has no input for {task.name}.", hint=f"Give one of the keys {', '.join(_MAIN)}.")
    rest = {name: value for name, value in record.items() if name != main}
    value = record[main]
    if isinstance(value, str) and main not in _TEXTS:
        [call] = _BY_KIND.get(_FILES_OF.get(task.kind, task.kind), _texts)(task, [value], pipeline)
        return Call(shown, call.arguments, rest)
    return Call(shown, (value,), rest)


def _images_and_text(task: Task, record: Mapping[str, Any], pipeline: Any, shown: str) -> Call:
    """Of {"image": "photo.png", "text": "What is this?"}; `images` is a list."""
    images = record.get("images", record.get("image"))
    names = [images] if isinstance(images, str) else list(images or ())
    if not isinstance(record.get("text"), str) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"{shown} has no text, or no image files.", hint='{"image": "photo.png", "text": "What is this?"}'
        )
    [call] = _image_text(task, [*names, record["text"]], pipeline)
    rest = {name: value for name, value in record.items() if name not in ("image", "images", "text")}
    return Call(shown, call.arguments, {**call.keywords, **rest})


def _texts(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    return [Call(text, (text,)) for text in inputs]


def _texts_or_pairs(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    """Texts; of a model with one label, such as a reranker, a query and the documents that it is compared with."""
    config = getattr(getattr(pipeline, "model", None), "config", None)
    labels = getattr(config, "labels", None) or getattr(config, "id2label", None) or ()
    if len(labels) != 1 or len(inputs) < 2:
        return _texts(task, inputs, pipeline)
    query = inputs[0]
    return [Call(document, ({"text": query, "text_pair": document},)) for document in inputs[1:]]


def _images(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    return [Call(name, (read_image(name),)) for name in inputs]


def _clips(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    """All images are the frames of one clip."""
    return [Call(" ".join(inputs), ([read_image(name) for name in inputs],))]


def _marked(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    """An image, and points on one object: "x,y" for each."""
    try:
        points = [[float(number) for number in point.split(",")] for point in inputs[1:]]
    except ValueError:
        points = []
    _expect(task, bool(points) and all(len(point) == 2 for point in points))
    return [Call(" ".join(inputs), (read_image(inputs[0]),), {"input_points": points})]


def _sounds(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    from onnxport.runtime.preprocessing.sounds.wav import read_wav

    rate = getattr(pipeline.feature_extractor, "sampling_rate", None)
    if rate is None:
        raise UsageError(
            "The folder has no sampling rate: preprocessor_config.json is missing or has none.",
            hint="Copy preprocessor_config.json of the checkpoint into the folder.",
        )
    return [Call(name, ({"raw": read_wav(Path(name), rate), "sampling_rate": rate},)) for name in inputs]


def _pair(first: str, second: str) -> Callable[[Task, list[str], Any], list[Call]]:
    def build(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
        _expect(task, len(inputs) == 2)
        return [Call(inputs[0], keywords={first: inputs[0], second: inputs[1]})]

    return build


def _page(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    """A page as a JSON file of its words and their places, or as an image; and last a question."""
    _expect(task, len(inputs) == 2)
    name, question = inputs
    given = {"word_boxes": read_json(Path(name))} if name.lower().endswith(".json") else {"image": name}
    return [Call(question, keywords={"image": None, "question": question, **given})]


def _labelled(read: Callable[[str], Any]) -> Callable[[Task, list[str], Any], list[Call]]:
    def build(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
        _expect(task, len(inputs) == 2)
        labels = [label.strip() for label in inputs[1].split(",") if label.strip()]
        _expect(task, bool(labels))
        return [Call(inputs[0], (read(inputs[0]),), {"candidate_labels": labels})]

    return build


def _choices(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    _expect(task, len(inputs) > 2)
    return [Call(inputs[0], (inputs[0],), {"choices": inputs[1:]})]


def _image_text(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    """One or more images, and last a text about them."""
    _expect(task, len(inputs) > 1)
    images, text = [read_image(name) for name in inputs[:-1]], inputs[-1]
    if getattr(pipeline.processor, "chat_template", None):
        content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
        return [Call(text, ([{"role": "user", "content": content}],), {"return_full_text": False})]
    marker = getattr(pipeline.processor, "marker", None)
    if marker is None:  # a processor of transformers
        from onnxport.dummy_inputs.image_marker import image_marker

        marker = image_marker(pipeline.processor, pipeline.model.config.image_token_id, images[0])
    if marker not in text:
        text = f"{marker * len(images)}\n{text}"
    return [Call(inputs[-1], (images,), {"text": text, "return_full_text": False})]


def read_image(name: str) -> Any:
    """An image file as an RGB PIL image.

    Raises:
        UsageError: no such file, or not an image.
    """
    from onnxport.runtime.preprocessing.images.load import load_image

    return load_image(Path(name))


def _expect(task: Task, right: bool) -> None:
    if not right:
        raise UsageError(f"{task.name} takes other inputs.", hint=f"For example: onnxport run FOLDER {task.example}")


_BY_KIND = {
    "text": _texts,
    "image": _images,
    "audio": _sounds,
    "video": _clips,
    "image+points": _marked,
    "series": _texts,
}
_BY_TASK = {
    "text-classification": _texts_or_pairs,
    "question-answering": _pair("question", "context"),
    "document-question-answering": _page,
    "next-sentence-prediction": _pair("text", "text_pair"),
    "zero-shot-classification": _labelled(str),
    "zero-shot-image-classification": _labelled(read_image),
    "zero-shot-object-detection": _labelled(read_image),
    "multiple-choice": _choices,
    "image-text-to-text": _image_text,
}
# Tasks whose pipelines take an object as it is.
_TAKES_OBJECTS = (
    "text-classification", "question-answering", "document-question-answering", "next-sentence-prediction",
    "multiple-choice",
)  # fmt: skip
# The key of a JSON object that is the input; the others are arguments of the call.
_TEXTS = ("text", "sequence", "inputs", "input", "messages")
_MAIN = (*_TEXTS, "image", "audio", "file", "frames", "values")
_FILES_OF = dict.fromkeys((*IMAGE_AND_TEXTS, "image+points"), "image")
