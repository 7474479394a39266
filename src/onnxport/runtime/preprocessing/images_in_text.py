"""Texts with images as arrays: each image in a text becomes image tokens, as the folder's processor does it.

Source: models/llava/processing_llava.py, models/gemma3/processing_gemma3.py and processing_utils.py of transformers
5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.artifact.card_calls import IMAGE_TEXT_PROCESSORS
from onnxport.errors import FolderError, UnknownPreprocessingError, UsageError
from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.preprocessing.images.load import load_image
from onnxport.runtime.preprocessing.images.processor import ImageProcessor, read_image_processor
from onnxport.runtime.prompts.special_tokens import special_tokens_in
from onnxport.runtime.prompts.tokenizer import FolderTokenizer

Arrays = dict[str, NDArray[Any]]
_IMAGE = "<image>"


@dataclass(frozen=True)
class ImageTextProcessor:
    """Prepares texts with images.

    Attributes:
        name: of the class in transformers.
        marker: what stands for an image in a text.
        images: the image processor.
        texts: the folder's tokenizer.
        expanded: pixels of an image, (channels, height, width) -> the text in the place of its marker.
        image_token: id of the token in the place of each row of image features.
        typed: gives `token_type_ids`, which are 1 for image tokens.
        chat_template: the folder has a chat template.
    """

    name: str
    marker: str
    images: ImageProcessor
    texts: FolderTokenizer
    expanded: Callable[[NDArray[Any]], str]
    image_token: int
    typed: bool
    chat_template: bool

    def __call__(self, images: Sequence[Any], text: str, *, special: bool = True) -> Arrays:
        """The arrays of one text.

        Args:
            images: paths, addresses or PIL images, in the order of the text.
            text: with a marker for each image.
            special: add the tokenizer's special tokens.

        Returns:
            `input_ids` and `attention_mask` (1, tokens); with images `pixel_values` (images, channels, height, width);
            and `token_type_ids` (1, tokens), if the class gives them.

        Raises:
            UsageError: another number of markers than images, images of several sizes, or no text.
        """
        pixels = [self.images(load_image(image))["pixel_values"] for image in images]
        first, *rest = text.split(self.marker)
        if len(rest) != len(pixels):
            raise UsageError(
                f"The text has {len(rest)} times {self.marker}, and there are {len(pixels)} images.",
                hint=f"Write {self.marker} where an image stands in the text.",
            )
        if len({one.shape for one in pixels}) > 1:
            raise UsageError(
                f"The images have different sizes after preprocessing: {sorted({one.shape[1:] for one in pixels})}.",
                hint="Give images of one size.",
            )
        whole = first + "".join(self.expanded(one) + part for one, part in zip(pixels, rest, strict=True))
        ids, mask = self.texts.encode([whole], 0, "left", special=special)
        made: Arrays = {"input_ids": ids, "attention_mask": mask}
        if self.typed:
            made["token_type_ids"] = (ids == self.image_token).astype(np.int64)
        return {**made, "pixel_values": np.stack(pixels)} if pixels else made


def read_image_text_processor(folder: Path) -> ImageTextProcessor:
    """The processor of a folder.

    Raises:
        FolderError: a file or a token is missing.
        UnknownPreprocessingError: a class, or a setting of one, that is not here.
    """
    settings = read_object_if_present(folder / "processor_config.json")
    tokenizer = read_object_if_present(folder / "tokenizer_config.json")
    # Checkpoints before transformers 4.45 name the class beside the images or the tokenizer only.
    others = (read_object_if_present(folder / "preprocessor_config.json"), tokenizer)
    name = next((str(found["processor_class"]) for found in (settings, *others) if found.get("processor_class")), None)
    if name not in _CLASSES:
        raise UnknownPreprocessingError(f"The processor {name or 'of texts with images'}")
    if not (folder / "tokenizer.json").is_file():
        raise UnknownPreprocessingError(f"{name} without tokenizer.json")
    images, texts = read_image_processor(folder), FolderTokenizer(folder)
    named = tokenizer.get("extra_special_tokens")
    tokens = special_tokens_in(named if isinstance(named, dict) else {}) | special_tokens_in(tokenizer)
    marker, image, typed, expanded = _CLASSES[name](settings, tokens, images)
    token = texts.tokenizer.token_to_id(image)
    if token is None:
        raise FolderError(f"The tokenizer of {folder} has no token {image}.", hint="Convert the model again.")
    template = (folder / "chat_template.jinja").is_file() or bool(tokenizer.get("chat_template"))
    return ImageTextProcessor(name, marker, images, texts, expanded, token, typed, template)


_Settings = Mapping[str, Any]
_Tokens = Mapping[str, str]
_Rules = tuple[str, str, bool, Callable[[NDArray[Any]], str]]


def _llava(settings: _Settings, tokens: _Tokens, _: ImageProcessor) -> _Rules:
    """An image token for each patch; the class token is one of `num_additional_image_tokens`, and may be left out."""
    image = tokens.get("image_token") or str(settings.get("image_token") or _IMAGE)
    side, further = settings.get("patch_size"), int(settings.get("num_additional_image_tokens") or 0)
    if not isinstance(side, int):
        # transformers then takes the old prompt, whose single token the model expands.
        raise UnknownPreprocessingError("LlavaProcessor without patch_size")
    left_out = 1 if settings.get("vision_feature_select_strategy") == "default" else 0

    def expanded(pixels: NDArray[Any]) -> str:
        height, width = pixels.shape[1:]
        count: int = (height // side) * (width // side) + further - left_out
        return image * count

    return image, image, False, expanded


def _gemma3(settings: _Settings, tokens: _Tokens, images: ImageProcessor) -> _Rules:
    """A number of image tokens between two marks, of which the first stands for the image in a text."""
    if images.settings.get("do_pan_and_scan"):
        raise UnknownPreprocessingError("Gemma3ImageProcessor with do_pan_and_scan")
    missing = [name for name in ("boi_token", "eoi_token", "image_token") if name not in tokens]
    if missing:
        raise UnknownPreprocessingError(f"Gemma3Processor without {missing[0]} in tokenizer_config.json")
    count = int(settings.get("image_seq_length") or 256)
    whole = f"\n\n{tokens['boi_token']}{tokens['image_token'] * count}{tokens['eoi_token']}\n\n"
    return tokens["boi_token"], tokens["image_token"], True, lambda _: whole


_RULES: tuple[Callable[[_Settings, _Tokens, ImageProcessor], _Rules], ...] = (_llava, _gemma3)
_CLASSES = dict(zip(IMAGE_TEXT_PROCESSORS, _RULES, strict=True))
