"""The image processors of transformers that run here: what each class does where preprocessor_config.json is silent.

Values are those of `models/*/image_processing_pil_*.py` of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_HALF = ([0.5] * 3, [0.5] * 3)
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_LANCZOS, _BILINEAR, _BICUBIC = 1, 2, 3  # PIL.Image.Resampling


@dataclass(frozen=True)
class ProcessorClass:
    """One class.

    Attributes:
        defaults: values of settings that preprocessor_config.json may leave out.
        fit: rule for the size: "size", "convnext", "levit", "crop_pct", "multiple", "divide", "yolos",
            "divisible" or "longest"; or how an image of a text is taken apart: "tiles" or "patches" (`IN_TEXT`).
        mask: gives a mask of pixels: where the image is padded ("pad"), always ("always"), or not at all (None).
        order: the steps after resizing.
        boxes: how detections are read from logits: "softmax", "top 100" or "top queries".
        segments: how masks are read: "map" (a class for every pixel), "queries" or "384" (queries, at 384 x 384).
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    fit: str = "size"
    mask: str | None = None
    order: tuple[str, ...] = ("crop", "rescale", "normalize")
    boxes: str = "softmax"
    segments: str = "map"


def _values(numbers: Any, resample: int, size: Any, **more: Any) -> dict[str, Any]:
    mean, std = numbers
    return {
        "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": resample,
        "image_mean": mean, "image_std": std, "size": size, "default_to_square": True, **more,
    }  # fmt: skip


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _edge(side: int) -> dict[str, int]:
    return {"shortest_edge": side}


_NOT_SQUARE: dict[str, Any] = {"default_to_square": False}
_CROPPED: dict[str, Any] = {**_NOT_SQUARE, "do_center_crop": True, "crop_size": _square(224)}
_EDGES = {"shortest_edge": 800, "longest_edge": 1333}
_DETECTOR = _values(_IMAGENET, _BILINEAR, _EDGES, **_NOT_SQUARE, do_pad=True, max_size=1333)
_CLIP_LIKE = ProcessorClass(_values(_CLIP, _BICUBIC, _edge(224), **_CROPPED))
_MASKS = _values(_IMAGENET, _BILINEAR, _EDGES, **_NOT_SQUARE, size_divisor=32)
_UNCROPPED = ("rescale", "normalize")
_IN_TILES = ProcessorClass(
    _values(_HALF, _LANCZOS, {"longest_edge": 4 * 364}, **_NOT_SQUARE, max_image_size={"longest_edge": 364},
            do_image_splitting=True, do_pad=True),
    fit="tiles",
    order=_UNCROPPED,
)  # fmt: skip
# Rules for images of which one becomes several arrays: tiles.py and patches.py.
IN_TEXT = ("tiles", "patches")

CLASSES: dict[str, ProcessorClass] = {
    "ViTImageProcessor": ProcessorClass(_values(_HALF, _BILINEAR, _square(224))),
    "DeiTImageProcessor": ProcessorClass(
        _values(_HALF, _BICUBIC, _square(256), do_center_crop=True, crop_size=_square(224))
    ),
    "BeitImageProcessor": ProcessorClass(_values(_HALF, _BICUBIC, _square(224), crop_size=_square(224))),
    "BitImageProcessor": _CLIP_LIKE,
    "CLIPImageProcessor": _CLIP_LIKE,
    "ChineseCLIPImageProcessor": _CLIP_LIKE,
    "OwlViTImageProcessor": ProcessorClass(_values(_CLIP, _BICUBIC, _square(768), crop_size=_square(768))),
    "BlipImageProcessor": ProcessorClass(_values(_CLIP, _BICUBIC, _square(384))),
    "SiglipImageProcessor": ProcessorClass(_values(_HALF, _BICUBIC, _square(224), **_NOT_SQUARE)),
    "PvtImageProcessor": ProcessorClass(_values(_IMAGENET, _BICUBIC, _square(224))),
    "MobileNetV1ImageProcessor": ProcessorClass(_values(_HALF, _BILINEAR, _edge(256), **_CROPPED)),
    "MobileNetV2ImageProcessor": ProcessorClass(_values(_HALF, _BILINEAR, _edge(256), **_CROPPED)),
    "MobileViTImageProcessor": ProcessorClass(
        _values(_HALF, _BICUBIC, _edge(224), **{**_CROPPED, "crop_size": _square(256)}, do_flip_channel_order=True),
        order=("rescale", "crop", "flip"),
    ),
    "ConvNextImageProcessor": ProcessorClass(
        _values(_HALF, _BICUBIC, _edge(384), **_NOT_SQUARE, crop_pct=224 / 256), fit="convnext"
    ),
    "LevitImageProcessor": ProcessorClass(_values(_IMAGENET, _BICUBIC, _edge(224), **_CROPPED), fit="levit"),
    "PoolFormerImageProcessor": ProcessorClass(
        _values(_IMAGENET, _BICUBIC, _edge(224), **_CROPPED, crop_pct=0.9), fit="crop_pct"
    ),
    "EfficientNetImageProcessor": ProcessorClass(
        _values(_HALF, _BICUBIC, _square(346), crop_size=_square(289), rescale_offset=False, include_top=True),
        order=("crop", "rescale", "offset", "normalize", "top"),
    ),
    "SegformerImageProcessor": ProcessorClass(_values(_IMAGENET, _BILINEAR, _square(512)), order=_UNCROPPED),
    "DPTImageProcessor": ProcessorClass(
        _values(_HALF, _BICUBIC, _square(384), ensure_multiple_of=1, keep_aspect_ratio=False),
        fit="multiple",
        order=("rescale", "normalize", "center pad"),
    ),
    "GLPNImageProcessor": ProcessorClass(
        _values(_HALF, _BILINEAR, None, size_divisor=32, do_normalize=False), fit="divide", order=_UNCROPPED
    ),
    "DetrImageProcessor": ProcessorClass(_DETECTOR, mask="pad", order=_UNCROPPED, segments="queries"),
    "ConditionalDetrImageProcessor": ProcessorClass(
        _DETECTOR, mask="pad", order=_UNCROPPED, boxes="top 100", segments="queries"
    ),
    "DeformableDetrImageProcessor": ProcessorClass(_DETECTOR, mask="pad", order=_UNCROPPED, boxes="top 100"),
    "YolosImageProcessor": ProcessorClass(_DETECTOR, fit="yolos", mask="pad", order=_UNCROPPED),
    "RTDetrImageProcessor": ProcessorClass(
        _values(_IMAGENET, _BILINEAR, _square(640), **_NOT_SQUARE, do_normalize=False, do_pad=False),
        mask="pad",
        order=_UNCROPPED,
        boxes="top queries",
    ),
    "MaskFormerImageProcessor": ProcessorClass(
        _MASKS, fit="divisible", mask="always", order=_UNCROPPED, segments="queries"
    ),
    "VideoMAEImageProcessor": ProcessorClass(_values(_HALF, _BILINEAR, _edge(224), **_CROPPED)),
    "Gemma3ImageProcessor": ProcessorClass(_values(_HALF, _BILINEAR, _square(224))),
    "Idefics3ImageProcessor": _IN_TILES,
    "SmolVLMImageProcessor": _IN_TILES,
    "Qwen2VLImageProcessor": ProcessorClass(
        _values(
            _CLIP,
            _BICUBIC,
            {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
            **_NOT_SQUARE,
            patch_size=14,
            temporal_patch_size=2,
            merge_size=2,
        ),
        fit="patches",
        order=_UNCROPPED,
    ),
    "Swin2SRImageProcessor": ProcessorClass(
        _values(_HALF, _BICUBIC, None, do_resize=False, do_pad=True, size_divisor=8), order=("rescale", "mirror pad")
    ),
    "SamImageProcessor": ProcessorClass(
        _values(_IMAGENET, _BILINEAR, {"longest_edge": 1024}, **_NOT_SQUARE, do_pad=True, pad_size=_square(1024)),
        fit="longest",
        order=_UNCROPPED,
    ),
    "Mask2FormerImageProcessor": ProcessorClass(
        _MASKS, fit="divisible", mask="always", order=_UNCROPPED, segments="384"
    ),
}

# Model type -> class, for checkpoints of which no file names it.
USUAL: dict[str, str] = {
    "beit": "Beit", "bit": "Bit", "blip": "Blip", "chinese_clip": "ChineseCLIP", "clip": "CLIP",
    "conditional_detr": "ConditionalDetr", "convnext": "ConvNext", "convnextv2": "ConvNext", "cvt": "ConvNext",
    "data2vec-vision": "Beit", "deformable_detr": "DeformableDetr", "deit": "DeiT", "depth_anything": "DPT",
    "detr": "Detr", "dinat": "ViT", "dinov2": "Bit", "dpt": "DPT", "efficientnet": "EfficientNet", "focalnet": "Bit",
    "glpn": "GLPN", "groupvit": "CLIP", "hiera": "Bit", "levit": "Levit", "lw_detr": "DeformableDetr",
    "mask2former": "Mask2Former", "maskformer": "MaskFormer", "metaclip_2": "CLIP", "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2", "mobilevit": "MobileViT", "mobilevitv2": "MobileViT", "owlvit": "OwlViT",
    "poolformer": "PoolFormer",
    "pvt": "Pvt", "pvt_v2": "Pvt", "regnet": "ConvNext", "resnet": "ConvNext", "rt_detr": "RTDetr",
    "sam": "Sam",
    "segformer": "Segformer", "siglip": "Siglip", "swin": "ViT", "swin2sr": "Swin2SR", "swinv2": "ViT",
    "upernet": "Segformer",
    "van": "ConvNext", "vit": "ViT", "vit_mae": "ViT", "vit_msn": "ViT", "yolos": "Yolos",
}  # fmt: skip
