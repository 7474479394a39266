"""Rows of the task table whose models have several inputs, several graphs, or a pipeline of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onnxport
from onnxport.runtime.pipeline import open_pipeline
from onnxport.user_runs.inputs import sample_image
from tests import tiny_tokenizers
from tests.integration.test_kinds import saved

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.integration

_LAYERS: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
_SQUARE = {"height": 32, "width": 32}


def _owl(folder: Path, name: str, processor: Any) -> Any:
    tokenizer = tiny_tokenizers.clip()
    text = _LAYERS | tiny_tokenizers.vocabulary("clip_text_model", tokenizer) | {"max_position_embeddings": 32}
    vision = _LAYERS | {"image_size": 32, "patch_size": 8}
    settings = {"text_config": text, "vision_config": vision, "projection_dim": 16}
    tokenizer.save_pretrained(folder)
    return saved(folder, f"{name}ForObjectDetection", f"{name}Config", settings, processor)


def _same_boxes(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert all(abs(one["box"][side] - other["box"][side]) <= 1 for side in other["box"])


def test_boxes_of_what_texts_name(tmp_path: Path) -> None:
    processor = transformers.OwlViTImageProcessor(size=_SQUARE, crop_size=_SQUARE)
    _owl(tmp_path / "m", "OwlViT", processor)
    conversion = onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick")
    assert conversion.manifest.task == "zero-shot-object-detection"
    source = transformers.pipeline("zero-shot-object-detection", str(tmp_path / "m"))
    labels = ["a cat", "two dogs in the garden", "paper"]
    image = sample_image(83, 57)
    found = open_pipeline(tmp_path / "o")(image, candidate_labels=labels, threshold=0.02)
    wanted = source(image, candidate_labels=labels, threshold=0.02)
    assert {row["label"] for row in wanted} == set(labels)
    _same_boxes(found, wanted)
    again = open_pipeline(tmp_path / "o")([{"image": image, "candidate_labels": labels}] * 2, threshold=0.02, top_k=4)
    assert [len(rows) for rows in again] == [4, 4]


@pytest.mark.sweep
def test_boxes_of_owlv2(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    _owl(tmp_path / "m", "Owlv2", transformers.Owlv2ImageProcessor(size=_SQUARE))
    assert onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick").passed
    image, labels = sample_image(83, 57), ["a cat", "paper"]
    source = transformers.pipeline("zero-shot-object-detection", str(tmp_path / "m"))
    wanted = source(image, candidate_labels=labels, threshold=0.02)
    _same_boxes(onnxport.pipeline(model=tmp_path / "o")(image, candidate_labels=labels, threshold=0.02), wanted)
