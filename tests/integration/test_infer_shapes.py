"""The public `infer_shapes`, `load_graph_from_args` and `convert_pytorch`, as the original had them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from onnxport import convert_pytorch, infer_shapes, load_graph_from_args, pipeline
from tests.tiny import save

pytestmark = pytest.mark.integration


def test_text(tmp_path):
    nlp = load_graph_from_args("ner", "pt", str(save("bert-token-classification", tmp_path / "m")))
    inputs, outputs, axes, sample = infer_shapes(nlp, "pt")
    assert inputs == ["input_ids", "token_type_ids", "attention_mask"]  # as the tokenizer gives them
    assert outputs == ["logits"]
    assert axes["input_ids"] == {0: "batch_size", 1: "sequence_length"}
    assert axes["logits"] == {0: "batch_size", 1: "sequence_length"}  # axis 2, the labels, is static
    assert list(sample) == inputs and all(isinstance(value, torch.Tensor) for value in sample.values())
    assert nlp.model(**sample).logits.shape[:2] == sample["input_ids"].shape


@pytest.mark.parametrize(
    "name, tensor, expected",
    [
        (
            "wav2vec2-automatic-speech-recognition",
            "logits",
            {0: "batch_size", 1: "(num_samples - 80) // 320"},
        ),
        (
            "dinov2-image-feature-extraction",
            "last_hidden_state",
            {0: "batch_size", 1: "(height // 8) * (width // 8) + 1"},
        ),
        ("clip-zero-shot-image-classification", "logits_per_image", {0: "image_batch_size", 1: "text_batch_size"}),
        ("bert-multiple-choice", "logits", {0: "batch_size", 1: "num_choices"}),
        ("vit-image-classification", "pixel_values", {0: "batch_size"}),
    ],
)  # fmt: skip
def test_axes_are_expressions_of_input_axes(name, tensor, expected, tmp_path):
    nlp = pipeline(None, model=str(save(name, tmp_path / "m")))
    assert infer_shapes(nlp, "pt")[2][tensor] == expected


def test_convert_pytorch_writes_one_graph(tmp_path):
    nlp = load_graph_from_args("fill-mask", "pt", str(save("bert-fill-mask", tmp_path / "m")))
    verification = convert_pytorch(nlp, 18, tmp_path / "out.onnx", True)
    assert verification.passed
    assert (tmp_path / "out.onnx_data").exists()
    ids = np.full((3, 17), 7)
    feed = {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": ids * 0 + 1}
    found = onnxruntime.InferenceSession(tmp_path / "out.onnx").run(None, feed)[0]
    with torch.no_grad():
        wanted = nlp.model(**{k: torch.from_numpy(v) for k, v in feed.items()}).logits.numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-5)
