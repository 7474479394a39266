"""Images as arrays, by the class and the settings in preprocessor_config.json; numpy and pillow only.

The numbers are those of transformers' processors of the same name (its PIL backend): each step has the same types and
the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import FolderError, UnknownPreprocessingError, UsageError
from onnxport.formats.json_file import read_object, read_object_if_present
from onnxport.runtime.preprocessing.images import sizes
from onnxport.runtime.preprocessing.images.classes import CLASSES, IN_TEXT, USUAL, ProcessorClass

Pixels = NDArray[Any]
_FULL_WARP = 384  # ConvNext crops smaller images, and warps from here on


@dataclass(frozen=True)
class ImageProcessor:
    """Prepares images.

    Attributes:
        name: of the class in transformers.
        kind: what the class does.
        settings: those of the folder, with the defaults of the class.
    """

    name: str
    kind: ProcessorClass
    settings: Mapping[str, Any]

    def __call__(self, image: Any) -> dict[str, Pixels]:
        """The arrays of one image.

        Args:
            image: an RGB PIL image, or an array (height, width, channels) or (channels, height, width).

        Returns:
            `pixel_values` (channels, height, width), float32; and `pixel_mask` (height, width) int64, if the class
            has one.

        Raises:
            UsageError: an array that is not an image.
        """
        pixels = self._resize(as_pixels(image)) if self.settings.get("do_resize") else as_pixels(image)
        pixels, mask = self._pad(self.finished(pixels))
        made = {"pixel_values": channels_first(pixels)}
        return made if mask is None else {**made, "pixel_mask": mask}

    def resized(self, pixels: Pixels, size: sizes.Size) -> Pixels:
        """An image (height, width, channels) at another (height, width), with the filter of the settings."""
        return _resize(pixels, size, int(self.settings["resample"]))

    def finished(self, pixels: Pixels) -> Pixels:
        """What follows resizing: rescaled, normalized, and the other steps of the class."""
        for step in self.kind.order:
            pixels = getattr(self, f"_{step.replace(' ', '_')}")(pixels)
        return pixels

    def size(self, name: str = "size") -> dict[str, int]:
        """A size of the settings, by its keys.

        Raises:
            FolderError: it is missing.
        """
        square = name != "size" or bool(self.settings.get("default_to_square"))
        found = self.settings.get(name)
        if found is None:
            raise FolderError(f"{self.name} has no {name}.", hint="Convert the model again.")
        return sizes.size_dict(found, square=square, longest=self.settings.get("max_size"))

    def _resize(self, pixels: Pixels) -> Pixels:
        resample = int(self.settings["resample"])
        if self.kind.fit == "convnext":
            edge = self.size()["shortest_edge"]
            if edge < _FULL_WARP:
                target = sizes.with_shortest_edge(pixels.shape[:2], int(edge / self.settings["crop_pct"]))
                return _center_crop(_resize(pixels, target, resample), (edge, edge))
            return _resize(pixels, (edge, edge), resample)
        return _resize(pixels, self.target(pixels.shape[:2]), resample)

    def target(self, image: sizes.Size) -> sizes.Size:
        """The (height, width) that an image of this (height, width) is resized to."""
        fit, settings = self.kind.fit, self.settings
        if fit == "divide":
            return sizes.rounded_down(image, int(settings["size_divisor"]))
        size = self.size()
        if fit == "multiple":
            keep = bool(settings["keep_aspect_ratio"])
            return sizes.fitted_to_multiple(image, size, int(settings["ensure_multiple_of"]), keep_ratio=keep)
        if fit == "longest":
            return sizes.with_longest_edge(image, size["longest_edge"])
        if fit == "levit" and "shortest_edge" in size:
            return sizes.with_shortest_edge(image, int((256 / 224) * size["shortest_edge"]))
        if fit == "crop_pct" and settings.get("crop_pct") is not None:
            return _beyond_the_crop(image, size, float(settings["crop_pct"]))
        if fit == "yolos" and {"shortest_edge", "longest_edge"} <= set(size):
            return sizes.with_edges(image, size["shortest_edge"], size["longest_edge"], multiple=16)
        target = sizes.resized(image, size)
        return sizes.rounded_up(target, settings["size_divisor"] or 1) if fit == "divisible" else target

    def _crop(self, pixels: Pixels) -> Pixels:
        if not self.settings.get("do_center_crop"):
            return pixels
        size = self.size("crop_size")
        return _center_crop(pixels, (size["height"], size["width"]))

    def _rescale(self, pixels: Pixels) -> Pixels:
        if not self.settings.get("do_rescale"):
            return pixels
        return np.asarray(pixels.astype(np.float64) * self.settings["rescale_factor"], np.float32)

    def _offset(self, pixels: Pixels) -> Pixels:
        return pixels - 1 if self.settings["rescale_offset"] and self.settings.get("do_rescale") else pixels

    def _normalize(self, pixels: Pixels) -> Pixels:
        if not self.settings.get("do_normalize"):
            return pixels
        return _normalize(pixels, self.settings["image_mean"], self.settings["image_std"])

    def _top(self, pixels: Pixels) -> Pixels:
        """EfficientNet's second normalization, of classifiers."""
        return _normalize(pixels, 0.0, self.settings["image_std"]) if self.settings["include_top"] else pixels

    def _flip(self, pixels: Pixels) -> Pixels:
        return pixels[..., ::-1] if self.settings["do_flip_channel_order"] else pixels

    def _center_pad(self, pixels: Pixels) -> Pixels:
        divisor = self.settings.get("size_divisor")
        if not self.settings.get("do_pad") or divisor is None:
            return pixels
        missing = [-side % int(divisor) for side in pixels.shape[:2]]
        return np.pad(pixels, [*((total // 2, total - total // 2) for total in missing), (0, 0)])

    def _mirror_pad(self, pixels: Pixels) -> Pixels:
        """Swin2SR: up to the next multiple, also of a side that is one."""
        if not self.settings.get("do_pad"):
            return pixels
        divisor = int(self.settings["size_divisor"])
        missing = [(0, divisor - side % divisor) for side in pixels.shape[:2]]
        return np.pad(pixels, [*missing, (0, 0)], mode="symmetric")

    def _pad(self, pixels: Pixels) -> tuple[Pixels, Pixels | None]:
        """The image in the upper left corner of `pad_size`, and the mask that the class gives."""
        kind, wanted = self.kind.mask, bool(self.settings.get("do_pad"))
        height, width = pixels.shape[:2]
        pads = kind == "always" or (wanted and not {"center pad", "mirror pad"} & {*self.kind.order})
        if not pads:
            return pixels, None
        if self.settings.get("pad_size") is not None:
            size = self.size("pad_size")
            below, beside = size["height"] - height, size["width"] - width
            if min(below, beside) < 0:
                raise UsageError(
                    f"The image is {height} x {width} after resizing, above pad_size {size}.",
                    hint="Give a smaller one.",
                )
            pixels = np.pad(pixels, ((0, below), (0, beside), (0, 0)))
        if kind is None:
            return pixels, None
        mask = np.zeros(pixels.shape[:2], np.int64)
        mask[:height, :width] = 1
        return pixels, mask


def read_image_processor(folder: Path, *, in_text: bool = False) -> ImageProcessor:
    """The image processor of a folder.

    Args:
        folder: its path.
        in_text: also classes that make several arrays of an image, whose number the text has to say.

    Raises:
        FolderError: the folder has none.
        UnknownPreprocessingError: a class that is not in the table.
    """
    settings = _settings(folder)
    name = _class_name(settings, folder)
    if name is None or name not in CLASSES or (CLASSES[name].fit in IN_TEXT and not in_text):
        raise UnknownPreprocessingError(f"The image processor {name or 'of the folder'}")
    kind = CLASSES[name]
    given = {key: value for key, value in settings.items() if value is not None}
    if "pad_and_return_pixel_mask" in given:
        given.setdefault("do_pad", given["pad_and_return_pixel_mask"])
    return ImageProcessor(name, kind, {**kind.defaults, **given})


def _settings(folder: Path) -> dict[str, Any]:
    """The settings in preprocessor_config.json, or in processor_config.json, which has those of several processors."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = folder / name
        found = read_object_if_present(file)
        inner = found.get("image_processor")
        settings = inner if isinstance(inner, dict) else found
        if {"image_processor_type", "image_mean", "do_resize", "feature_extractor_type"} & set(settings):
            return dict(settings)
    raise FolderError(
        f"{folder} has no image processor: preprocessor_config.json is missing.",
        hint="Copy preprocessor_config.json of the checkpoint into the folder.",
    )


def _class_name(settings: Mapping[str, Any], folder: Path) -> str | None:
    """The name of the class, without the ending of a backend."""
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if isinstance(name, str):
        plain = name.removesuffix("Fast").removesuffix("Pil")
        return plain.replace("FeatureExtractor", "ImageProcessor")
    config = folder / "config.json"
    usual = USUAL.get(str(read_object(config).get("model_type")) if config.is_file() else "")
    return None if usual is None else f"{usual}ImageProcessor"


def channels_first(pixels: Pixels) -> Pixels:
    """(height, width, channels) as float32 (channels, height, width)."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0), np.float32)


def as_pixels(image: Any) -> Pixels:
    """An image as (height, width, channels).

    Raises:
        UsageError: not 1, 3 or 4 channels.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and not hasattr(image, "getbbox"):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise UsageError(f"An array of shape {pixels.shape} is not an image.", hint="Give (height, width, channels).")
    return pixels


def _resize(pixels: Pixels, size: sizes.Size, resample: int) -> Pixels:
    """Resized by pillow, in 8 bits; numbers from 0 to 1 stay such numbers.

    Raises:
        UsageError: numbers that are neither from 0 to 255 nor from 0 to 1.
    """
    from PIL import Image

    fractions = pixels.dtype != np.uint8 and not np.allclose(pixels, pixels.astype(int))
    if pixels.dtype != np.uint8 and not (pixels.min() >= 0 and pixels.max() <= (1 if fractions else 255)):
        raise UsageError("The numbers of an image are from 0 to 255, or from 0 to 1.", hint="Give an array of uint8.")
    if fractions:
        pixels = (pixels.astype(np.float64) * 255).astype(np.float32)
    single = pixels.shape[-1] == 1
    picture = Image.fromarray((pixels[..., 0] if single else pixels).astype(np.uint8))
    made = np.array(picture.resize((size[1], size[0]), resample=Image.Resampling(resample)))
    made = made[..., None] if single else made
    return (made.astype(np.float64) * (1 / 255)).astype(np.float32) if fractions else made


def _center_crop(pixels: Pixels, size: sizes.Size) -> Pixels:
    """The middle of an image; what lies outside of it is black."""
    places, padding = [], []
    for side, wanted in zip(pixels.shape[:2], size, strict=True):
        first = (side - wanted) // 2
        before = -((side - wanted) // 2) if first < 0 else 0
        # A smaller image stands in the middle; of an odd number of black lines, the first side has one more.
        padding.append((before, max(wanted - side, 0) - before))
        places.append(slice(max(first, 0), max(first, 0) + wanted))
    return np.pad(pixels, [*padding, (0, 0)])[places[0], places[1]]


def _normalize(pixels: Pixels, mean: Any, std: Any) -> Pixels:
    if not np.issubdtype(pixels.dtype, np.floating):
        pixels = pixels.astype(np.float32)
    made: Pixels = (pixels - np.array(mean, pixels.dtype)) / np.array(std, pixels.dtype)
    return made


def _beyond_the_crop(image: sizes.Size, size: Mapping[str, int], share: float) -> sizes.Size:
    """The size of which a crop takes `share` (PoolFormer)."""
    if "shortest_edge" in size:
        return sizes.with_shortest_edge(image, int(size["shortest_edge"] / share))
    if size["height"] == size["width"]:
        return sizes.with_shortest_edge(image, int(size["height"] / share))
    return int(size["height"] / share), int(size["width"] / share)
