"""How the inputs of `onnxport run` become calls of a pipeline, for each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxport.errors import UsageError
from onnxport.tasks import Task


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


def _texts(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    return [Call(text, (text,)) for text in inputs]


def _images(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    return [Call(name, (read_image(name),)) for name in inputs]


def _sounds(task: Task, inputs: list[str], pipeline: Any) -> list[Call]:
    from onnxport.cli.sound import read_wav

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
    from PIL import Image, UnidentifiedImageError

    if not Path(name).is_file():
        raise UsageError(f"There is no file {name!r}.", hint="Give an image file, such as photo.png.")
    try:
        with Image.open(name) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name} cannot be read as an image: {error}.", hint="Give a PNG or JPEG file.") from error


def _expect(task: Task, right: bool) -> None:
    if not right:
        raise UsageError(f"{task.name} takes other inputs.", hint=f"For example: onnxport run FOLDER {task.example}")


_BY_KIND = {"text": _texts, "image": _images, "audio": _sounds}
_BY_TASK = {
    "question-answering": _pair("question", "context"),
    "next-sentence-prediction": _pair("text", "text_pair"),
    "zero-shot-classification": _labelled(str),
    "zero-shot-image-classification": _labelled(read_image),
    "multiple-choice": _choices,
    "image-text-to-text": _image_text,
}
