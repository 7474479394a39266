"""Models whose images stand in the sequence of their text become three graphs, and write what PyTorch writes."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from PIL import Image

from onnxport import convert
from tests.tiny_images_in_text import TABLE, save_image_text

pytestmark = pytest.mark.integration

VOCABULARY = 2000  # a table of 2000 x 32 numbers is worth sharing
GRAPHS = ["vision_encoder", "embed_tokens", "decoder_model_merged"]


@pytest.fixture(scope="module", params=["llava"])
def converted(request, tmp_path_factory):
    """(source model, processor, folder, conversion)"""
    root = tmp_path_factory.mktemp(request.param)
    source = save_image_text(request.param, root / "m", vocabulary=VOCABULARY)
    conversion = convert(None, source, root / "out")
    model = getattr(transformers, TABLE[request.param][0]).from_pretrained(source).eval()
    return model, transformers.AutoProcessor.from_pretrained(source), root / "out", conversion


def picture(seed, height=50, width=70):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def test_everything_is_verified(converted):
    conversion = converted[3]
    assert conversion.passed
    assert conversion.manifest.task == "image-text-to-text"
    assert [component.name for component in conversion.manifest.components] == GRAPHS
    checks = [case.name for case in conversion.manifest.components[2].verification.cases]
    assert sum("greedy" in check for check in checks) == 2, checks


def test_weights_are_stored_once(converted):
    model, _, folder, _ = converted
    stored = sum(file.stat().st_size for file in (folder / "onnx").glob("*_data"))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert stored <= weights + 50_000
