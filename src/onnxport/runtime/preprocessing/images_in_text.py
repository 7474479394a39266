"""Texts with images as arrays: each image in a text becomes image tokens, as the folder's processor does it.

Sources: processing_utils.py and models/*/processing_*.py of transformers 5.23: llava, gemma3, idefics3, smolvlm,
qwen2_vl and qwen2_5_vl.
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
from onnxport.runtime.preprocessing.images.classes import IN_TEXT
from onnxport.runtime.preprocessing.images.load import load_image
from onnxport.runtime.preprocessing.images.patches import patches_of
from onnxport.runtime.preprocessing.images.processor import ImageProcessor, read_image_processor
from onnxport.runtime.preprocessing.images.tiles import tiles_of
from onnxport.runtime.prompts.special_tokens import special_tokens_in
from onnxport.runtime.prompts.tokenizer import FolderTokenizer

Arrays = dict[str, NDArray[Any]]
_IMAGE = "<image>"
_PIXELS, _MASK, _GRID = "pixel_values", "pixel_attention_mask", "image_grid_thw"


@dataclass(frozen=True)
class ImageInText:
    """One image of a text.

    Attributes:
        arrays: of the image, without an axis for images.
        text: what stands in the place of its marker.
    """

    arrays: Arrays
    text: str


@dataclass(frozen=True)
class ImageRules:
    """What a class of transformers does with the images of a text.

    Attributes:
        marker: what stands for an image in a text.
        image: the token in the place of each row of image features.
        read: a PIL image -> its arrays and its text.
        joined: the images of a text -> arrays of all of them.
        types: name of the array that is 1 for image tokens; None if the class gives none.
    """

    marker: str
    image: str
    read: Callable[[Any], ImageInText]
    joined: Callable[[Sequence[Arrays]], Arrays]
    types: str | None = None


@dataclass(frozen=True)
class ImageTextProcessor:
    """Prepares texts with images.

    Attributes:
        name: of the class in transformers.
        rules: what the class does with images.
        texts: the folder's tokenizer.
        image_token: id of the token in the place of each row of image features.
        chat_template: the folder has a chat template.
    """

    name: str
    rules: ImageRules
    texts: FolderTokenizer
    image_token: int
    chat_template: bool

    @property
    def marker(self) -> str:
        """What stands for an image in a text."""
        return self.rules.marker

    def __call__(self, images: Sequence[Any], text: str, *, special: bool = True) -> Arrays:
        """The arrays of one text.

        Args:
            images: paths, addresses or PIL images, in the order of the text.
            text: with a marker for each image.
            special: add the tokenizer's special tokens.

        Returns:
            `input_ids` and `attention_mask` (1, tokens); the arrays of the images, if there are any: `pixel_values`
            (images, channels, height, width), or of tiles (1, tiles, channels, height, width) with
            `pixel_attention_mask` (1, tiles, height, width), or of patches (patches, numbers) with `image_grid_thw`
            (images, 3); and `token_type_ids` or `mm_token_type_ids` (1, tokens), if the class gives them.

        Raises:
            UsageError: another number of markers than images, images of several sizes, or no text.
        """
        made = [self.rules.read(load_image(image)) for image in images]
        first, *rest = text.split(self.marker)
        if len(rest) != len(made):
            raise UsageError(
                f"The text has {len(rest)} times {self.marker}, and there are {len(made)} images.",
                hint=f"Write {self.marker} where an image stands in the text.",
            )
        whole = first + "".join(one.text + part for one, part in zip(made, rest, strict=True))
        ids, mask = self.texts.encode([whole], 0, "left", special=special)
        arrays: Arrays = {"input_ids": ids, "attention_mask": mask}
        if self.rules.types is not None:
            arrays[self.rules.types] = (ids == self.image_token).astype(np.int64)
        return {**arrays, **self.rules.joined([one.arrays for one in made])} if made else arrays


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
    images, texts = read_image_processor(folder, in_text=True), FolderTokenizer(folder)
    make, fit = _CLASSES[name]
    if (images.kind.fit if images.kind.fit in IN_TEXT else None) != fit:
        raise UnknownPreprocessingError(f"{name} with {images.name}")
    named = tokenizer.get("extra_special_tokens")
    tokens = special_tokens_in(named if isinstance(named, dict) else {}) | special_tokens_in(tokenizer)
    rules = make(settings, tokens, images)
    token = texts.tokenizer.token_to_id(rules.image)
    if token is None:
        raise FolderError(f"The tokenizer of {folder} has no token {rules.image}.", hint="Convert the model again.")
    template = (folder / "chat_template.jinja").is_file() or bool(tokenizer.get("chat_template"))
    return ImageTextProcessor(name, rules, texts, token, template)


_Settings = Mapping[str, Any]
_Tokens = Mapping[str, str]
_Make = Callable[[_Settings, _Tokens, ImageProcessor], ImageRules]


def _llava(settings: _Settings, tokens: _Tokens, images: ImageProcessor) -> ImageRules:
    """An image token for each patch; the class token is one of `num_additional_image_tokens`, and may be left out."""
    image = tokens.get("image_token") or str(settings.get("image_token") or _IMAGE)
    side, further = settings.get("patch_size"), int(settings.get("num_additional_image_tokens") or 0)
    if not isinstance(side, int):
        # transformers then takes the old prompt, whose single token the model expands.
        raise UnknownPreprocessingError("LlavaProcessor without patch_size")
    left_out = 1 if settings.get("vision_feature_select_strategy") == "default" else 0

    def read(picture: Any) -> ImageInText:
        pixels = images(picture)[_PIXELS]
        height, width = pixels.shape[1:]
        count: int = (height // side) * (width // side) + further - left_out
        return ImageInText({_PIXELS: pixels}, image * count)

    return ImageRules(image, image, read, _stacked)


def _gemma3(settings: _Settings, tokens: _Tokens, images: ImageProcessor) -> ImageRules:
    """A number of image tokens between two marks, of which the first stands for the image in a text.

    transformers' processor ignores `do_pan_and_scan` in preprocessor_config.json, and so does this.
    """
    missing = [name for name in ("boi_token", "eoi_token", "image_token") if name not in tokens]
    if missing:
        raise UnknownPreprocessingError(f"Gemma3Processor without {missing[0]} in tokenizer_config.json")
    count = int(settings.get("image_seq_length") or 256)
    whole = f"\n\n{tokens['boi_token']}{tokens['image_token'] * count}{tokens['eoi_token']}\n\n"

    def read(picture: Any) -> ImageInText:
        return ImageInText({_PIXELS: images(picture)[_PIXELS]}, whole)

    return ImageRules(tokens["boi_token"], tokens["image_token"], read, _stacked, "token_type_ids")


def _in_tiles(settings: _Settings, tokens: _Tokens, images: ImageProcessor) -> ImageRules:
    """Image tokens for each tile, with its row and column before them, and for the whole image."""
    image = tokens.get("image_token") or _IMAGE
    around = tokens.get("fake_image_token") or "<fake_token_around_image>"
    whole_image = tokens.get("global_image_token") or "<global-img>"
    features = image * int(settings.get("image_seq_len") or 169)

    def read(picture: Any) -> ImageInText:
        tiles = tiles_of(images, picture)
        parts = []
        for row in range(1, tiles.rows + 1):
            parts += [f"{around}<row_{row}_col_{column}>{features}" for column in range(1, tiles.columns + 1)]
            parts.append("\n")
        whole = f"{around}{whole_image}{features}{around}"
        arrays = {_PIXELS: tiles.pixels}
        if images.settings.get("do_pad"):
            arrays[_MASK] = np.ones((len(tiles.pixels), *tiles.pixels.shape[2:]), np.int64)
        return ImageInText(arrays, "".join([*parts, "\n", whole]) if parts else whole)

    def joined(made: Sequence[Arrays]) -> Arrays:
        return {name: array[None] for name, array in _joined(made).items()}

    return ImageRules(image, image, read, joined)


def _with_grids(settings: _Settings, tokens: _Tokens, images: ImageProcessor) -> ImageRules:
    """An image token for each row of features, which is a square of patches."""
    image = tokens.get("image_token") or "<|image_pad|>"
    square = int(images.settings["merge_size"]) ** 2

    def read(picture: Any) -> ImageInText:
        patches, grid = patches_of(images, picture)
        return ImageInText({_PIXELS: patches, _GRID: grid[None]}, image * (len(patches) // square))

    return ImageRules(image, image, read, _joined, "mm_token_type_ids")


def _joined(made: Sequence[Arrays]) -> Arrays:
    """The arrays of several images, one after the other."""
    return {name: np.concatenate([one[name] for one in made]) for name in made[0]}


def _stacked(made: Sequence[Arrays]) -> Arrays:
    """The arrays of several images on a new axis.

    Raises:
        UsageError: they have different sizes.
    """
    shapes = {one[_PIXELS].shape for one in made}
    if len(shapes) > 1:
        raise UsageError(
            f"The images have different sizes after preprocessing: {sorted(shape[1:] for shape in shapes)}.",
            hint="Give images of one size.",
        )
    return {name: np.stack([one[name] for one in made]) for name in made[0]}


# Rules of the classes in the order of IMAGE_TEXT_PROCESSORS, and how their image processors take an image apart.
_RULES: tuple[tuple[_Make, str | None], ...] = (
    (_llava, None),
    (_gemma3, None),
    (_in_tiles, "tiles"),
    (_in_tiles, "tiles"),
    (_with_grids, "patches"),
    (_with_grids, "patches"),
)
_CLASSES = dict(zip(IMAGE_TEXT_PROCESSORS, _RULES, strict=True))
