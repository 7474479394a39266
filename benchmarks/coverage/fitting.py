"""Set what image processors and processors have in numbers to those of a shrunk config and its model."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import torch

from benchmarks.coverage import dry_run
from benchmarks.coverage.preprocessing import Preprocessing

# A larger "edge" of an image processor is a number of pixels.
_PIXELS = 8000
_MOST_PATCHES = 64
# Config of the vision tower -> image processor.
_SAME = {
    "patch_size": ("patch_size",), "temporal_patch_size": ("temporal_patch_size",),
    "merge_size": ("spatial_merge_size", "merge_size"), "spatial_merge_size": ("spatial_merge_size",),
}  # fmt: skip
# Names that processors have for the number of tokens of an image.
_COUNTS = ("image_seq_length", "image_seq_len", "num_image_tokens", "image_seq_length")


def fit_images(made: Preprocessing, config: Any) -> None:
    """Set the sizes of the image processor to those of a shrunk config, 64 pixels where it names none.

    Args:
        made: changed.
        config: of the model; it gets the shapes of tiles that the processor gets.
    """
    made.side = _side_of(config)
    side, vision = made.side or 64, getattr(config, "vision_config", None)
    processor = made.parts.get("processor")
    for images in (made.parts.get("image_processor"), getattr(processor, "image_processor", None)):
        if images is None:
            continue
        if hasattr(images, "do_split_image"):  # these models take images of one size
            images.do_pad = True
        tiled = bool(getattr(images, "max_image_size", None))
        for name in ("size", "crop_size", "pad_size", "max_image_size", "mask_size", "high_res_size"):
            # Of the size before the first cut: a number of pixels must not be taken for an edge at the second.
            if value := made.sizes.setdefault(name, getattr(images, name, None)):
                setattr(images, name, _resized(value, 2 * side if tiled and name == "size" else side))
        if isinstance(getattr(images, "max_patches", None), int) and images.max_patches > _MOST_PATCHES:
            images.max_patches = _MOST_PATCHES
        for name, others in _SAME.items():
            found = [getattr(part, other, None) for part in (vision, config) for other in others]
            number = next((one for one in found if type(one) is int), None)
            if number and isinstance(getattr(images, name, None), (int, dict)):
                old = getattr(images, name)
                setattr(images, name, dict.fromkeys(old, number) if isinstance(old, dict) else number)
        if getattr(config, "image_grid_pinpoints", None) and hasattr(images, "image_grid_pinpoints"):
            config.image_grid_pinpoints = images.image_grid_pinpoints = [[side, 2 * side], [2 * side, side]]
    bins = next((n for one in (config, getattr(config, "encoder_config", None), getattr(config, "encoder", None))
                 if isinstance(n := getattr(one, "num_mel_bins", None), int)), None)  # fmt: skip
    extractor = made.parts.get("feature_extractor")
    if bins and getattr(extractor, "num_mel_bins", bins) == bins != getattr(extractor, "feature_size", bins):
        made.parts["feature_extractor"] = type(extractor)(feature_size=bins)
        if hasattr(processor, "feature_extractor"):
            processor.feature_extractor = made.parts["feature_extractor"]
    if isinstance(getattr(processor, "patch_size", None), int) and isinstance(getattr(vision, "patch_size", None), int):
        factor = getattr(config, "downsample_factor", None) if hasattr(processor, "img_size") else 1
        processor.patch_size = vision.patch_size * (factor or 1)
    if hasattr(processor, "vision_feature_select_strategy") and hasattr(config, "vision_feature_select_strategy"):
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = int("clip" in str(getattr(vision, "model_type", "")))
    if isinstance(getattr(processor, "img_size", None), int):
        processor.img_size = side
    if hasattr(processor, "num_query_tokens"):
        processor.num_query_tokens = config.num_query_tokens


def fit_counts(made: Preprocessing, model: Any) -> None:
    """Set the number of image tokens in a processor to the rows of features that the model makes of an image.

    Where the model makes none alone, the numbers stay, and the dry run says what does not fit.
    """
    processor = made.parts.get("processor")
    holders = [one for one in (processor, getattr(processor, "image_processor", None)) if one is not None]
    vision = getattr(model.config, "vision_config", None)
    if hasattr(processor, "num_image_tokens") and hasattr(processor, "vision_feature_select_strategy"):
        processor.num_image_tokens = (vision.image_size // vision.patch_size) ** 2  # of one tile
        return
    counted = [(one, name) for one in holders for name in _COUNTS if isinstance(getattr(one, name, ""), int | None)]
    inner = next((one for one in (model, getattr(model, "model", None)) if hasattr(one, "get_image_features")), None)
    if not counted or inner is None:
        return
    inputs = dry_run.images(made, np.random.default_rng(0), 1)
    taken = inspect.signature(inner.get_image_features).parameters
    try:
        with torch.no_grad():
            found = inner.get_image_features(**{name: value for name, value in inputs.items() if name in taken})
    except Exception:
        return
    found = getattr(found, "pooler_output", found)
    parts = [found] if isinstance(found, torch.Tensor) else list(found)
    images = int(np.prod(inputs["pixel_values"].shape[:-3])) or 1
    rows = sum(part.numel() // part.shape[-1] for part in parts) // images
    for holder, name in counted:
        setattr(holder, name, rows)
    given = [name for name in _COUNTS if name in inspect.signature(type(processor).__init__).parameters]
    if given:  # some build texts of the number when they are made
        made.arguments |= dict.fromkeys(given, rows)
        made.parts["processor"] = type(processor)(**made.arguments)


def _side_of(config: Any) -> int | None:
    for one in (config, getattr(config, "vision_config", None), getattr(config, "encoder", None),
                getattr(config, "backbone_config", None)):  # fmt: skip
        side = getattr(one, "image_size", None)
        side = max(side) if isinstance(side, (list, tuple)) and side else side
        if isinstance(side, int):
            return side
    positions = getattr(config, "n_positions", None)  # a pixel each
    return math.isqrt(positions) if isinstance(positions, int) else None


def _resized(value: Any, side: int) -> Any:
    if isinstance(value, int):
        return side
    return {key: side * side if number and number > _PIXELS else side for key, number in dict(value).items()}
