"""What onnxruntime-genai is told of a graph, and which graphs are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxport.artifact.manifest import Component, Manifest
from onnxport.errors import UsageError
from onnxport.specs import TensorSpec
from onnxport.targets.genai_config import make_config


def _states(*sizes: tuple[int, int], tokens: int = 2) -> list[TensorSpec]:
    return [
        TensorSpec(
            f"past_key_values.{layer}.{what}", "float32", ("batch_size", heads, "past_sequence_length", features)
        )
        for layer, (heads, features) in enumerate(sizes)
        for what in ("key", "value")
    ]


def _ids(name: str) -> TensorSpec:
    return TensorSpec(name, "int64", ("batch_size", "sequence_length"))


def _component(inputs: list[TensorSpec], name: str = "model") -> Component:
    logits = TensorSpec("logits", "float32", ("batch_size", "num_logits", 99))
    return Component(name, f"onnx/{name}.onnx", 23, "float32", 1, tuple(inputs), (logits,))


def _make(component: Component, folder: Path, *others: Component) -> dict[str, Any]:
    manifest = Manifest("text-generation", "pt", "m", "M", {}, (component, *others))
    return make_config(folder, manifest, component, component.file)


def test_names_sizes_and_settings(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"num_attention_heads": 8, "hidden_size": 64, "max_position_embeddings": 77, "eos_token_id": 5})
    )
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [5, 6], "do_sample": True, "temperature": 0.5, "bos_token_id": 1})
    )
    optional = TensorSpec("num_logits_to_keep", "int64", ())
    component = _component([_ids("input_ids"), _ids("attention_mask"), *_states((2, 8), (2, 8), (2, 8)), optional])
    config = _make(component, tmp_path)
    model, decoder = config["model"], config["model"]["decoder"]
    assert (model["context_length"], model["vocab_size"]) == (77, 99)
    assert (model["eos_token_id"], model["pad_token_id"], model["bos_token_id"]) == ([5, 6], 5, 1)
    assert (decoder["num_hidden_layers"], decoder["num_key_value_heads"], decoder["head_size"]) == (3, 2, 8)
    assert (decoder["num_attention_heads"], decoder["hidden_size"]) == (8, 64)
    assert decoder["inputs"] == {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    search = {"do_sample": True, "temperature": 0.5, "max_length": 77, "past_present_share_buffer": False}
    assert config["search"] == search


def test_a_checkpoint_that_says_nothing(tmp_path: Path) -> None:
    config = _make(_component([_ids("input_ids"), *_states((2, 8))]), tmp_path)
    assert config["model"]["context_length"] == 2048 and "eos_token_id" not in config["model"]
    assert config["model"]["decoder"]["hidden_size"] == 16


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([_ids("input_ids"), _ids("attention_mask")], "writes no text"),
        (
            [_ids("input_ids"), TensorSpec("past_conv.0", "float32", ("batch_size", 8, 3))],
            r"keys and values \(past_conv",
        ),
        ([_ids("input_ids"), *_states((2, 8), (2, 16))], "several sizes .2 heads of 16, 2 heads of 8"),
        ([_ids("input_ids"), *_states((2, 8))[:1]], "not every layer"),
        ([_ids("input_ids"), *_states((2, 8), (2, 8))[2:]], "not every layer"),
        ([_ids("input_ids"), _ids("token_type_ids"), *_states((2, 8))], "not known there .token_type_ids"),
        ([_ids("input_ids"), _ids("encoder_attention_mask"), *_states((2, 8))], "half of an encoder-decoder"),
    ],
)
def test_what_it_cannot_run_is_refused(inputs: list[TensorSpec], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        _make(_component(inputs), tmp_path)


def test_a_decoder_beside_an_encoder_is_refused(tmp_path: Path) -> None:
    decoder = _component([_ids("input_ids"), *_states((2, 8))], "decoder_model_merged")
    with pytest.raises(UsageError, match="half of an encoder-decoder"):
        _make(decoder, tmp_path, _component([_ids("input_ids")], "encoder_model"))
