"""Longformer and LED: windows, global tokens and padding at lengths that are no multiple of the window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from onnxport import convert
from onnxport.runtime.session import OnnxSession
from tests import tiny_tokenizers

pytestmark = pytest.mark.integration

WINDOW = 4


def _longformer(folder, head):
    tokenizer = tiny_tokenizers.modernbert()
    config = transformers.LongformerConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=tokenizer.pad_token_id + 91, attention_window=[WINDOW, 2 * WINDOW],
        pad_token_id=tokenizer.pad_token_id, sep_token_id=tokenizer.sep_token_id, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, head)(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.sweep
def test_longformer_at_any_length(tmp_path):
    """A class is read from the first token, which sees all and is seen by all."""
    model = _longformer(tmp_path / "m", "LongformerForSequenceClassification")
    conversion = convert(None, tmp_path / "m", tmp_path / "out", pipeline_name="text-classification")
    assert conversion.passed
    session = OnnxSession(tmp_path / "out" / "onnx" / "model.onnx")
    rng = np.random.default_rng(0)
    for rows, length in ((1, 1), (2, 3), (3, 4), (2, 9), (1, 23), (2, 71)):
        ids = rng.integers(10, model.config.vocab_size, (rows, length))
        mask = np.ones_like(ids)
        mask[-1, max(length // 2, 1) :] = 0
        with torch.no_grad():
            wanted = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
        found = session.run({"input_ids": ids, "attention_mask": mask})["logits"]
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.sweep
def test_led_translates_as_its_source(tmp_path):
    tokenizer = tiny_tokenizers.modernbert()
    config = transformers.LEDConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_encoder_position_embeddings=90,
        max_decoder_position_embeddings=90, attention_window=[WINDOW, 2 * WINDOW], init_std=0.5,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id, decoder_start_token_id=tokenizer.cls_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LEDForConditionalGeneration(config).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    assert convert(None, tmp_path / "m", tmp_path / "out", pipeline_name="summarization").passed
