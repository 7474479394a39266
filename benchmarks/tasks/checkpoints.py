"""A tiny checkpoint for every row of the table of tasks, with random weights of a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

# Row -> name in the tables of tests/tiny*.py.
_TABLED = {
    "fill-mask": "bert-fill-mask",
    "text-classification": "bert-text-classification",
    "token-classification": "bert-token-classification",
    "question-answering": "bert-question-answering",
    "zero-shot-classification": "bert-zero-shot-classification",
    "text-generation": "llama",
    "text2text-generation": "t5-untied",
    "summarization": "bart",
    "translation": "marian",
    "multiple-choice": "bert-multiple-choice",
    "next-sentence-prediction": "bert-next-sentence-prediction",
    "object-detection": "detr-object-detection",
    "image-classification": "vit-image-classification",
    "semantic-segmentation": "segformer-semantic-segmentation",
    "image-segmentation": "detr-image-segmentation",
    "depth-estimation": "dpt-depth-estimation",
    "audio-classification": "wav2vec2-audio-classification",
    "automatic-speech-recognition": "wav2vec2-automatic-speech-recognition",
    "image-to-text": "vision-encoder-decoder",
    "image-text-to-text": "llava",
    "zero-shot-image-classification": "clip-zero-shot-image-classification",
    "image-feature-extraction": "vit-image-feature-extraction",
    "feature-extraction": "bert-feature-extraction",
}
_LAYERS: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
_SOUND: dict[str, Any] = {
    **_LAYERS, "conv_dim": (16, 16, 16), "conv_stride": (5, 4, 4), "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
    "tdnn_dim": (12, 12, 12), "tdnn_kernel": (5, 3, 1), "tdnn_dilation": (1, 2, 1), "xvector_output_dim": 12,
    "classifier_proj_size": 8, "num_labels": 3,
}  # fmt: skip
_SQUARE = {"height": 32, "width": 32}


def save(task: str, folder: Path) -> None:
    """Write the checkpoint of a row.

    Args:
        task: name of the row.
        folder: made if it is missing.
    """
    if task in _OWN:
        folder.mkdir(parents=True, exist_ok=True)
        _OWN[task](folder)
        return
    from tests import conversions

    more = {"tokenizer": "bert"} if task == "text-generation" else {}
    conversions.save(_TABLED[task], folder, **more)


def _saved(folder: Path, name: str, settings: dict[str, Any], *parts: Any) -> None:
    """Model `name`ForSomething of its own config class, and what prepares its inputs."""
    import torch
    import transformers

    from tests.tiny_base import randomize

    kind = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(kind.config_class(**settings))
    randomize(model, torch.Generator().manual_seed(0))
    for part in (model, *parts):
        part.save_pretrained(folder)


def _extractor() -> Any:
    import transformers

    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)


def _frames(folder: Path) -> None:
    _saved(folder, "Wav2Vec2ForAudioFrameClassification", _SOUND, _extractor())


def _voice(folder: Path) -> None:
    _saved(folder, "Wav2Vec2ForXVector", _SOUND, _extractor())


def _clips(folder: Path) -> None:
    import transformers

    settings = {**_LAYERS, "image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, "num_labels": 3}
    processor = transformers.VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE)
    _saved(folder, "VideoMAEForVideoClassification", settings, processor)


def _larger(folder: Path) -> None:
    import transformers

    settings = {
        "image_size": 16, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "upscale": 2,
        "num_channels_out": 3,
    }  # fmt: skip
    _saved(folder, "Swin2SRForImageSuperResolution", settings, transformers.Swin2SRImageProcessor())


def _boxes(folder: Path) -> None:
    import transformers

    from tests import tiny_tokenizers

    tokenizer = tiny_tokenizers.clip()
    text = _LAYERS | tiny_tokenizers.vocabulary("clip_text_model", tokenizer) | {"max_position_embeddings": 32}
    settings = {
        "text_config": text, "vision_config": _LAYERS | {"image_size": 32, "patch_size": 8}, "projection_dim": 32,
    }  # fmt: skip
    processor = transformers.OwlViTImageProcessor(size=_SQUARE, crop_size=_SQUARE)
    _saved(folder, "OwlViTForObjectDetection", settings, processor, tokenizer)


def _masks(folder: Path) -> None:
    import transformers

    images = {"image_size": 32, "patch_size": 8}
    vision = {
        **_LAYERS, **images, "output_channels": 16, "window_size": 3, "mlp_dim": 24, "global_attn_indexes": [],
        "num_pos_feats": 8,
    }  # fmt: skip
    decoder = {
        "hidden_size": 16, "mlp_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        "iou_head_depth": 2,
    }  # fmt: skip
    settings = {
        "vision_config": vision, "mask_decoder_config": decoder,
        "prompt_encoder_config": {**images, "hidden_size": 16, "mask_input_channels": 4},
    }  # fmt: skip
    processor = transformers.SamImageProcessor(size={"longest_edge": 32}, pad_size=_SQUARE)
    _saved(folder, "SamModel", settings, processor)


def _series(folder: Path) -> None:
    settings = {
        "context_length": 24, "prediction_length": 6, "num_input_channels": 2, "patch_length": 4, "patch_stride": 4,
        "d_model": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 24, "scaling": "std",
        "loss": "mse",
    }  # fmt: skip
    _saved(folder, "PatchTSTForPrediction", settings)


def _pages(folder: Path) -> None:
    from tests import tiny_tokenizers

    tokenizer = tiny_tokenizers.bert()
    settings = {
        **_LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": 128, "max_2d_position_embeddings": 1024,
    }  # fmt: skip
    _saved(folder, "LayoutLMForQuestionAnswering", settings, tokenizer)


_OWN: dict[str, Callable[[Path], None]] = {
    "document-question-answering": _pages,
    "audio-frame-classification": _frames,
    "audio-xvector": _voice,
    "video-classification": _clips,
    "image-to-image": _larger,
    "zero-shot-object-detection": _boxes,
    "mask-generation": _masks,
    "time-series-forecasting": _series,
}
ROWS = tuple({**_TABLED, **_OWN})
