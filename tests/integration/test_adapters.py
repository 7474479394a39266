"""Adapters of peft, merged into the weights of their base model, against peft's own outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import onnxport
from onnxport.errors import CheckpointError, UsageError, VerificationError
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.options import LoadOptions
from onnxport.loading.resolve import resolve_model
from onnxport.runtime.session import OnnxSession
from onnxport.weights.lazy import evaluate
from tests.conversions import save

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.integration


def adapted(base: Path, auto: str, labels: int | None = None, **settings: Any) -> Any:
    """A PeftModel with random matrices around the checkpoint `base`."""
    more = {} if labels is None else {"num_labels": labels, "ignore_mismatched_sizes": True}
    model = getattr(transformers, auto).from_pretrained(base, **more)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3)
    return wrapped


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A base with three labels; an adapter with a head of five, of which two modules have ranks of their own."""
    root = tmp_path_factory.mktemp("adapter")
    base = save("bert-text-classification", root / "base")
    model = adapted(
        base, "AutoModelForSequenceClassification", labels=5, task_type="SEQ_CLS", r=4, lora_alpha=6, use_rslora=True,
        target_modules=["query", "value", "word_embeddings"], rank_pattern={"value": 2},
    )  # fmt: skip
    model.save_pretrained(root / "adapter")
    return SimpleNamespace(base=base, adapter=root / "adapter", model=model, root=root)


def _logits(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(**{name: torch.from_numpy(v) for name, v in inputs.items()}).logits.numpy()
    return logits


def test_folder(classifier: SimpleNamespace) -> None:
    out = classifier.root / "out"
    conversion = onnxport.convert(None, classifier.adapter, out)
    ids = np.arange(3 * 13).reshape(3, 13) % 30 + 5
    mask = np.ones_like(ids)
    mask[1, 7:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    want = _logits(classifier.model, inputs)
    assert want.shape == (3, 5)
    np.testing.assert_allclose(OnnxSession(out / "onnx/model.onnx").run(inputs)["logits"], want, atol=1e-5)
    ledger = conversion.manifest.components[0].ledger
    assert ledger is not None
    merged = [proof for proof in ledger.weights.values() if "lora_" in proof.origins]
    assert len(merged) == 5 and {proof.proof for proof in merged} == {"computed"}
    assert all("model.safetensors" in proof.origins and "lora_" in proof.origins for proof in merged)
    assert json.loads((out / "config.json").read_text())["id2label"].keys() == set("01234")
    onnxport.verify(out, against=classifier.adapter)


@pytest.mark.sweep
def test_another_adapter_is_found(classifier: SimpleNamespace, tmp_path: Path) -> None:
    """The ledger of a folder, run again with an adapter whose factor is another."""
    out = tmp_path / "out"
    onnxport.convert(None, classifier.adapter, out, verify_level="quick")
    other = Path(shutil.copytree(classifier.adapter, tmp_path / "adapter"))
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 6.001}))
    with pytest.raises(VerificationError):
        onnxport.verify(out, against=other)


def test_a_wrong_merge_is_found(classifier: SimpleNamespace) -> None:
    """What merging recorded is checked against the names and numbers of the adapter."""
    options = LoadOptions()
    to_export = load_model_to_export(resolve_model(classifier.adapter, None, options), "auto", options)
    layers = to_export.pipeline.model.bert.encoder.layer
    layers[0].attention.self.query.weight, layers[1].attention.self.query.weight = (
        layers[1].attention.self.query.weight, layers[0].attention.self.query.weight,
    )  # fmt: skip
    with pytest.raises(VerificationError):
        to_export.weight_origins.again()


@pytest.mark.parametrize(
    ("name", "auto", "settings"),
    [
        ("gpt2", "AutoModelForCausalLM", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
        ("llama", "AutoModelForCausalLM", {"target_modules": ["q_proj", "lm_head"], "bias": "none"}),
        ("resnet-image-classification", "AutoModelForImageClassification", {"target_modules": ["convolution"]}),
    ],
)
def test_merged_weights(tmp_path: Path, name: str, auto: str, settings: dict[str, Any]) -> None:
    """Transposed weights, a head that is tied to the embeddings, convolutions: the weights that peft merges."""
    base = save(name, tmp_path / "base")
    model = adapted(base, auto, r=3, lora_alpha=5, **settings)
    model.save_pretrained(tmp_path / "adapter")
    options = LoadOptions(lazy=True)
    to_export = load_model_to_export(resolve_model(tmp_path / "adapter", None, options), "auto", options)
    merged = model.merge_and_unload().state_dict()
    own = to_export.pipeline.model.state_dict(keep_vars=True)
    for parameter, value in merged.items():
        tensor = own[parameter]
        found = evaluate(tensor) if hasattr(tensor, "origin") else tensor
        np.testing.assert_allclose(found.detach().numpy(), value.numpy(), atol=1e-6, err_msg=parameter)


def test_live_model(classifier: SimpleNamespace) -> None:
    inputs = {"input_ids": np.arange(14).reshape(2, 7) + 5}
    before = _logits(classifier.model, inputs)
    nlp = onnxport.pipeline("text-classification", classifier.model, tokenizer=str(classifier.base))
    np.testing.assert_allclose(_logits(nlp.model, inputs), before, atol=1e-5)
    assert not any("lora_" in name for name, _ in nlp.model.named_parameters())
    assert any("lora_" in name for name, _ in classifier.model.named_parameters())


def test_base_elsewhere(classifier: SimpleNamespace, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(classifier.adapter, tmp_path / "adapter"))
    settings = json.loads((adapter / "adapter_config.json").read_text())
    gone = {**settings, "base_model_name_or_path": str(tmp_path / "gone")}
    (adapter / "adapter_config.json").write_text(json.dumps(gone))
    with pytest.raises(CheckpointError) as caught:
        resolve_model(adapter)
    assert "--base-model" in str(caught.value.hint) and str(tmp_path / "gone") in caught.value.message
    found = resolve_model(adapter, None, LoadOptions(base_model=str(classifier.base))).checkpoint
    assert found is not None and found.path == classifier.base and found.adapter is not None
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora"):
        resolve_model(adapter)
    with pytest.raises(UsageError):
        resolve_model(classifier.base, None, LoadOptions(base_model=str(classifier.base)))
