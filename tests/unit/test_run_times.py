"""Other run times in the model card, and what text-embeddings-inference needs."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from onnxport.artifact.assets import changed_copies
from onnxport.artifact.card import card_of
from onnxport.artifact.embedding_server import additions, missing_for_server
from onnxport.artifact.manifest import Component, Manifest
from onnxport.artifact.run_times import run_times
from onnxport.specs import TensorSpec
from tests.unit.sample_manifest import make_manifest

STATES = TensorSpec("last_hidden_state", "float32", ("batch_size", "sequence_length", 8))
SENTENCE = TensorSpec("sentence_embedding", "float32", ("batch_size", 8))
LOGITS = TensorSpec("logits", "float32", ("batch_size", 2))
CONFIG = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
CLASSIFIER = CONFIG | {"architectures": ["BertForSequenceClassification"]}
LABELS = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}


def folder(root: Path, task: str, config: dict[str, Any], **changes: Any) -> Manifest:
    manifest = make_manifest()
    component: Component = dataclasses.replace(manifest.components[0], **changes)
    (root / "config.json").write_text(json.dumps(config))
    (root / "tokenizer.json").write_text("{}")
    return dataclasses.replace(manifest, task=task, components=(component,))


def names(root: Path, manifest: Manifest) -> list[str]:
    return [run_time.name for run_time in run_times(root, manifest, "out/my model")]


def test_a_sentence_encoder_runs_in_six(tmp_path: Path) -> None:
    manifest = folder(tmp_path, "feature-extraction", CONFIG, outputs=(STATES, SENTENCE))
    assert names(tmp_path, manifest) == ["HTTP server", "text-embeddings-inference", "optimum", "Triton"]
    (tmp_path / "modules.json").write_text("[]")
    assert names(tmp_path, manifest)[1:3] == ["sentence-transformers", "fastembed"]
    for run_time in run_times(tmp_path, manifest, "out/my model"):
        assert "out/" not in run_time.code and "my model" in run_time.code
        if run_time.language == "python":
            ast.parse(run_time.code)
    card = card_of(tmp_path, manifest, "out/my model")
    assert "text-embeddings-router --model-id 'my model'" in card and "\n\n\n" not in card


@pytest.mark.parametrize(
    ("config", "changes", "lacks"),
    [
        (CONFIG, {"outputs": (STATES,)}, ""),
        (CLASSIFIER | LABELS, {"outputs": (LOGITS,)}, ""),
        (CLASSIFIER, {"outputs": (LOGITS,)}, "id2label"),
        (CONFIG, {"outputs": (LOGITS,)}, "last_hidden_state"),
        (CONFIG, {"outputs": (STATES,), "file": "onnx/model_predict.onnx"}, "onnx/model.onnx"),
        ({**CONFIG, "max_position_embeddings": None}, {"outputs": (STATES,)}, "max_position_embeddings"),
        (CONFIG, {"outputs": (STATES,), "inputs": make_manifest().components[0].inputs[:1]}, "attention_mask"),
        (
            CONFIG,
            {
                "outputs": (STATES,),
                "inputs": (*make_manifest().components[0].inputs, TensorSpec("bbox", "int64", (1,))),
            },
            "attention_mask",
        ),
    ],
)
def test_what_the_embedding_server_lacks(tmp_path: Path, config: Any, changes: Any, lacks: str) -> None:
    manifest = folder(tmp_path, "feature-extraction", config, **changes)
    found = missing_for_server(tmp_path, manifest.components[0])
    assert bool(found) == bool(lacks) and all(lacks in fault for fault in found[:1])
    assert ("text-embeddings-inference" in names(tmp_path, manifest)) == (not lacks)


def test_sentence_settings_without_a_length_cannot_be_read(tmp_path: Path) -> None:
    manifest = folder(tmp_path, "feature-extraction", CONFIG, outputs=(SENTENCE,))
    (tmp_path / "sentence_bert_config.json").write_text("{}")
    assert missing_for_server(tmp_path, manifest.components[0]) == ["max_seq_length in sentence_bert_config.json"]


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (CONFIG, {}),
        (CLASSIFIER, LABELS),
        (CLASSIFIER | {"id2label": {"0": "no", "1": "yes"}}, {"label2id": {"no": 0, "yes": 1}}),
        ({"model_type": "distilbert", "dim": 8, "n_layers": 3}, {"hidden_size": 8, "num_hidden_layers": 3}),
        ({"model_type": "swin", "dim": 8}, {}),
    ],
)
def test_a_config_gets_what_it_means_anyway(tmp_path: Path, config: Any, more: Any) -> None:
    """And the copy of the checkpoint's file counts as unchanged, unless anything else differs."""
    assert additions(config) == more
    for name, values in (("m", config), ("out", {**config, **more}), ("bad", {**config, **more, "eps": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    checks = [changed_copies(tmp_path / "m", tmp_path / name, frozenset(), {}) for name in ("out", "bad")]
    assert checks == [[], ["config.json is not that of the checkpoint"]]


def test_every_task_has_lines(tmp_path: Path) -> None:
    manifest = folder(tmp_path, "text-generation", CONFIG)
    assert names(tmp_path, manifest) == ["HTTP server", "optimum", "onnxruntime-genai", "Triton"]
    assert names(tmp_path, dataclasses.replace(manifest, task="module")) == ["Triton"]
    assert names(tmp_path, dataclasses.replace(manifest, task="future-task")) == []
    decoder = dataclasses.replace(manifest.components[0], name="decoder_model_merged")
    pair = dataclasses.replace(manifest, task="translation", components=(decoder,))
    assert names(tmp_path, pair) == ["HTTP server", "transformers.js", "Triton"]
    states = dataclasses.replace(decoder, inputs=(TensorSpec("encoder_hidden_states", "float32", (1, 2, 3)),))
    assert names(tmp_path, dataclasses.replace(pair, components=(states,))) == ["HTTP server", "Triton"]
