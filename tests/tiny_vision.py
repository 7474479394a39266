"""Tiny image models, as a table. Image sizes are 32 or 64, the smallest that keep every stage meaningful."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers

from tests import tiny_tokenizers as tokenizers
from tests.tiny_base import Parts, Tiny, row

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_VIT = _LAYERS | {"image_size": 32, "patch_size": 8}
_DINOV2 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": 32,
    "patch_size": 8,
}
_SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 2, 1],
    "layer_type": "bottleneck",
}
_CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
# Each further stage or layer on free heights and widths takes torch seconds of algebra.
_SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [8, 16],
    "num_attention_heads": [1, 2],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "mlp_ratios": [2, 2],
    "sr_ratios": [4, 1],
    "decoder_hidden_size": 32,
}
_DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 8,  # the mask head wants d_model + heads to be a multiple of 8
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
    "use_timm_backbone": False,
    "backbone_config": _RESNET | {"model_type": "resnet", "depths": [1, 1, 1, 1], "out_features": _STAGES},
}
_MASK_BACKBONE = _SWIN | {
    "model_type": "swin",
    "image_size": 64,
    "patch_size": 4,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 4],
    "out_features": _STAGES,
}
_MASK2FORMER = {
    "backbone_config": _MASK_BACKBONE,
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "num_attention_heads": 4,
    "num_queries": 6,
}
_MASKFORMER = {
    "backbone_config": _MASK_BACKBONE,
    "decoder_config": _DETR | {"model_type": "detr"},
    "fpn_feature_size": 32,
    "mask_feature_size": 32,
}
_DPT = _LAYERS | {
    "image_size": 32,
    "patch_size": 8,
    "num_hidden_layers": 4,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 16, 24, 32],
    "fusion_hidden_size": 16,
}
_DEPTH_ANYTHING = {
    "backbone_config": _DINOV2
    | {
        "model_type": "dinov2",
        "num_hidden_layers": 4,
        "out_features": _STAGES,
        "apply_layernorm": True,
        "reshape_hidden_states": False,
    },
    "patch_size": 8,
    "reassemble_hidden_size": 32,
    "neck_hidden_sizes": [8, 16, 24, 32],
    "fusion_hidden_size": 16,
    "head_hidden_size": 8,
}


def _processor(name: str, **values: Any) -> Parts:
    # Without torchvision only the PIL classes exist; both are saved under the same name.
    return (getattr(transformers, f"{name}ImageProcessorPil")(**values),)


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


_vit = partial(_processor, "ViT", size=_square(32))
_convnext = partial(_processor, "ConvNext", size={"shortest_edge": 96}, crop_pct=0.875)
_resnet = partial(_processor, "ConvNext", size={"shortest_edge": 64}, crop_pct=0.875)
_dinov2 = partial(_processor, "Bit", size={"shortest_edge": 36}, crop_size=_square(32))
_segformer = partial(_processor, "Segformer", size=_square(64))
_detr = partial(_processor, "Detr", size={"shortest_edge": 64, "longest_edge": 96})
_mask2former = partial(_processor, "Mask2Former", size=_square(64), size_divisor=32)
_maskformer = partial(_processor, "MaskFormer", size=_square(64), size_divisor=32)
_dpt = partial(_processor, "DPT", size=_square(32))
_depth_anything = partial(
    _processor, "DPT", size=_square(32), keep_aspect_ratio=True, ensure_multiple_of=8, do_pad=False
)

# model type: config, parts, tasks
_FAMILIES: dict[str, tuple[dict[str, Any], Callable[[], Parts], tuple[str, ...]]] = {
    "vit": (_VIT, _vit, ("image-classification", "image-feature-extraction")),
    "swin": (_SWIN, _vit, ("image-classification",)),
    "convnext": (_CONVNEXT, _convnext, ("image-classification",)),
    "resnet": (_RESNET, _resnet, ("image-classification",)),
    "dinov2": (_DINOV2, _dinov2, ("image-feature-extraction", "image-classification")),
    "detr": (_DETR, _detr, ("object-detection", "image-segmentation")),
    "segformer": (_SEGFORMER, _segformer, ("semantic-segmentation", "image-classification")),
    "dpt": (_DPT, _dpt, ("depth-estimation",)),
    "depth_anything": (_DEPTH_ANYTHING, _depth_anything, ("depth-estimation",)),
    "maskformer": (_MASKFORMER, _maskformer, ("image-segmentation",)),
    "mask2former": (_MASK2FORMER, _mask2former, ("image-segmentation",)),
}


def _constant(values: dict[str, Any], parts: Parts) -> dict[str, Any]:
    return values


def _two_towers(model_type: str, values: dict[str, Any], parts: Parts) -> dict[str, Any]:
    vocabulary = tokenizers.vocabulary(f"{model_type}_text_model", parts[0])
    text = _LAYERS | vocabulary | {"max_position_embeddings": parts[0].model_max_length}
    return {"text_config": text, "vision_config": _VIT} | values


def _clip() -> Parts:
    # Saved one by one, as in the published CLIP: preprocessor_config.json beside the tokenizer.
    return tokenizers.clip(), *_processor("CLIP", size={"shortest_edge": 32}, crop_size=_square(32))


def _siglip() -> Parts:
    # Saved as one processor, the layout of transformers 5: processor_config.json holds the image processor.
    tokenizer = tokenizers.siglip()
    return tokenizer, transformers.SiglipProcessor(*_processor("Siglip", size=_square(32)), tokenizer)


# Their loss, which is made with the model, wants it.
_NEEDS = {"maskformer": ("scipy",), "mask2former": ("scipy",)}

TABLE: tuple[Tiny, ...] = (
    *(
        row(
            f"{model_type.replace('_', '-')}-{task}",
            task,
            model_type,
            partial(_constant, values),
            parts,
            _NEEDS.get(model_type, ()),
        )
        for model_type, (values, parts, tasks) in _FAMILIES.items()
        for task in tasks
    ),
    *(
        row(f"{model_type}-{task}", task, model_type, partial(_two_towers, model_type, values), parts)
        for model_type, values, parts, task in (
            ("clip", {"projection_dim": 24}, _clip, "zero-shot-image-classification"),
            ("siglip", {}, _siglip, "zero-shot-image-classification"),
        )
    ),
)
