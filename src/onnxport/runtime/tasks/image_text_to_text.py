"""Texts about images and texts, with the calls of transformers' pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.errors import UsageError
from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.closing import Closing
from onnxport.runtime.decoding.settings import check_names, read_settings
from onnxport.runtime.image_text_generation import ImageTextGenerator
from onnxport.runtime.preprocessing.images_in_text import Arrays, read_image_text_processor
from onnxport.runtime.session import OnnxSession

_DEFAULTS = {"max_new_tokens": 256}  # of transformers' pipeline, for models without settings of their own
_WITHOUT_EFFECT = ("num_workers", "batch_size", "clean_up_tokenization_spaces", "timeout")
_PLACES = ("image", "url", "path", "base64")  # of an image in a message
_LEAD = 2  # characters before the prompt, in a decoded text, that are no answer


class ImageTextToText(Closing):
    """`pipeline("photo.png", text="<image> What is it?")` returns [{"input_text": str, "generated_text": str}].

    An image is a path, an address or a PIL image; a list of images belongs to one text, and a list of texts has an
    image, or a list of images, for each. Messages of a conversation are taken in the place of both, with images as
    {"type": "image", "image": ...}. `return_full_text=False` leaves the prompt out. Other arguments are those of
    `onnxport.runtime.decoding.settings.GenerationSettings`, also as `generate_kwargs={...}`.

    Raises:
        FolderError: a file is missing.
        UnknownPreprocessingError: a processor that needs transformers.
    """

    def __init__(self, folder: Folder, component: str, task: str, **settings: Any) -> None:
        self.task, self.folder, self.notes = task, folder.path, folder.manifest.notes
        check_names(settings, (*_WITHOUT_EFFECT, "return_full_text"))
        self.processor = read_image_text_processor(folder.path)
        self.generator = ImageTextGenerator(folder, component)
        self.settings = settings

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return self.generator.sessions

    def __call__(self, images: Any = None, text: Any = None, **settings: Any) -> list[Any]:
        """The text about one image, or about each of a list of texts.

        Raises:
            UsageError: no text, another number of images than the text has, or a setting that does not exist.
        """
        chosen = self.settings | settings
        chosen |= chosen.pop("generate_kwargs", None) or {}
        chosen = {name: value for name, value in chosen.items() if name not in _WITHOUT_EFFECT}
        whole = chosen.pop("return_full_text", None) is not False
        if text is None and (_is_message_list(images) or _is_request(images)):
            images, text = (None, images) if _is_message_list(images) else (_images_of(images), images["text"])
        if _is_message_list(text):
            return self._chat(text, whole, chosen)
        if isinstance(text, str):
            return self._continued(_as_list(images), text, whole, chosen)
        if not isinstance(text, (list, tuple)) or not all(isinstance(one, str) for one in text):
            raise UsageError("A text is needed beside the image.", hint='pipeline("photo.png", text="...")')
        if not isinstance(images, (list, tuple)) or len(images) != len(text):
            raise UsageError(f"There are {len(text)} texts.", hint="Give a list with an image for each.")
        return [self._continued(_as_list(some), one, whole, chosen) for some, one in zip(images, text, strict=True)]

    def _continued(self, images: list[Any], text: str, whole: bool, settings: Mapping[str, Any]) -> list[Any]:
        answers = self._answers(self.processor(images, text), settings)
        return [{"input_text": text, "generated_text": text + new if whole else new} for new in answers]

    def _chat(self, messages: Sequence[Mapping[str, Any]], whole: bool, settings: Mapping[str, Any]) -> list[Any]:
        from onnxport.runtime.prompts.chat_template import render

        if messages[-1].get("role") == "assistant":
            raise UsageError("The last message is the assistant's.", hint="End with a message of the user.")
        images, plain = _without_images(messages)
        prompt = render(self.folder, plain)
        start = _bos_token(self)
        inputs = self.processor(images, prompt, special=not (start and prompt.startswith(start)))
        made = []
        for new in self._answers(inputs, settings):
            text = [*messages, {"role": "assistant", "content": new}] if whole else new
            made.append({"input_text": list(messages), "generated_text": text})
        return made

    def _answers(self, inputs: Arrays, settings: Mapping[str, Any]) -> list[str]:
        """The new texts; what transformers' pipeline takes off a decoded text is taken off here too."""
        chosen = read_settings(self.folder, _DEFAULTS, **settings)
        texts = self.generator.texts
        prompt = inputs["input_ids"][0].tolist()
        before = texts.decode(prompt)
        made = []
        for tokens in self.generator.tokens(inputs, chosen, stop=texts.stop(chosen.stop_strings)):
            text = texts.decode([*prompt, *tokens])
            place = text.find(before)
            made.append(text[place + len(before) :] if 0 <= place <= _LEAD else text)
        return made


def _bos_token(pipeline: ImageTextToText) -> str | None:
    from onnxport.runtime.prompts.special_tokens import special_tokens_in

    config = read_object_if_present(pipeline.folder / "tokenizer_config.json")
    further = read_object_if_present(pipeline.folder / "special_tokens_map.json")
    return (special_tokens_in(further) | special_tokens_in(config)).get("bos_token")


def _without_images(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[dict[str, Any]]]:
    """The images of a conversation, and the messages with {"type": "image"} in their places.

    Raises:
        UsageError: a part that is neither a text nor an image.
    """
    images: list[Any] = []
    plain = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            parts = []
            for part in content:
                kind = part.get("type") if isinstance(part, Mapping) else None
                found = [part[name] for name in _PLACES if name in part] if kind == "image" else []
                if kind not in ("text", "image") or (kind == "image" and not found):
                    raise UsageError(
                        f"A message has a part of the type {kind!r}, which cannot be read.",
                        hint='{"type": "text", "text": "..."} or {"type": "image", "image": "photo.png"}',
                    )
                images += found[:1]
                parts.append({"type": "image"} if kind == "image" else dict(part))
            message = {**message, "content": parts}
        plain.append(dict(message))
    return images, plain


def _is_message_list(inputs: Any) -> bool:
    return (
        isinstance(inputs, (list, tuple))
        and bool(inputs)
        and all(isinstance(one, Mapping) and "role" in one for one in inputs)
    )


def _is_request(inputs: Any) -> bool:
    return isinstance(inputs, Mapping) and "text" in inputs and _images_of(inputs) is not None


def _images_of(request: Mapping[str, Any]) -> Any:
    return request.get("images", request.get("image"))


def _as_list(images: Any) -> list[Any]:
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]
