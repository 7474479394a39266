"""Checkpoints that store weights quantized: `dequantize` gives the numbers that they stand for, to the last bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from onnxport import convert, quantize
from onnxport.artifact.folder import open_folder
from onnxport.artifact.ledger import Proof
from onnxport.checkpoints.checkpoint import inspect_checkpoint, judge_quantized
from onnxport.errors import CheckpointError, UsageError
from onnxport.loading.load import load
from onnxport.weights import dequantize
from onnxport.weights.lazy import LazyTensor
from tests.once import Once
from tests.packed_checkpoints import KINDS, pack_checkpoint
from tests.tiny_decoders import save_decoder
from tests.unit.cli_runner import refusal, run

pytestmark = pytest.mark.integration


def _saved(kind: str, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    save_decoder("llama", folder, **{"num_hidden_layers": 1, **changes})
    return pack_checkpoint(kind, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_were_packed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantize, "_AT_ONCE", 1)  # 32 rows at once, of up to 48
    expected = _saved(kind, tmp_path)
    loaded = load("text-generation", None, tmp_path, dequantize=True, lazy=kind != "awq")
    own, reader = loaded.pipeline.model.state_dict(), loaded.pipeline.weight_origins.reader
    assert len(expected) == 7
    for name, values in expected.items():
        assert isinstance(own[name], LazyTensor) == (kind != "awq")
        found = own[name].clone() + 0
        assert torch.equal(found, values), name
        assert torch.equal(reader.values(name), values), name
    assert any("dequantized" in note for note in loaded.notes)
    assert getattr(loaded.pipeline.model.config, "quantization_config", None) is None


_CONVERTED = ["gptq-desc-act", *(pytest.param(kind, marks=pytest.mark.sweep) for kind in ("awq", "int4-asymmetric"))]


def _converted(kind: str, once: Once) -> tuple[Path, tuple[dict[str, torch.Tensor], Any]]:
    def make(folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
        expected = _saved(kind, folder / "m")
        return expected, convert(None, folder / "m", folder / "out", pipeline_name="text-generation", dequantize=True)

    return once(f"packed-{kind}", make)


@pytest.mark.parametrize("kind", _CONVERTED)
def test_the_converted_model_has_the_outputs_of_the_dequantized_one(kind: str, once: Once) -> None:
    folder, (expected, conversion) = _converted(kind, once)
    config = json.loads((folder / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    plain = {name: tensor.float() for name, tensor in load_file(folder / "m" / "model.safetensors").items()
             if not name.rpartition(".")[0].endswith("_proj")}  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(config)).eval()
    model.load_state_dict(plain | expected)
    ids = np.arange(3, 20)[None]
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(_logits(folder / "out" / "onnx" / "model.onnx", ids), wanted, rtol=1e-4, atol=1e-4)
    ledger = conversion.manifest.components[0].ledger
    assert ledger is not None
    packed = [
        proof
        for proof in ledger.weights.values()
        if "_proj.qweight" in proof.origins or "_proj.weight" in proof.origins
    ]
    assert len(packed) == 7
    assert all("dequantized" in proof.transform and proof.proof in (Proof.EXACT, Proof.TRANSFORMED) for proof in packed)


@pytest.mark.parametrize("kind", _CONVERTED)
def test_integers_are_kept(kind: str, once: Once, tmp_path: Path) -> None:
    folder, _ = _converted(kind, once)
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    file = quantize(out, "int4", checkpoint=folder / "m")
    nodes = [node for node in onnx.load(file).graph.node if node.op_type == "MatMulNBits"]
    assert len(nodes) == 5  # k_proj and v_proj are too small
    ids = np.arange(3, 20)[None]
    np.testing.assert_allclose(_logits(file, ids), _logits(out / "onnx" / "model.onnx", ids), rtol=1e-4, atol=1e-4)
    component = open_folder(out).manifest.find("model_q4")
    assert component is not None and component.ledger is not None and component.verification is not None
    assert component.verification.passed and component.verification.max_rel_error < 1e-5
    proofs = [one for name, one in component.ledger.weights.items() if ".q4" in name or name.endswith(".zeros")]
    assert len(proofs) == 10 and {one.proof for one in proofs} == {Proof.TRANSFORMED}
    assert component.size_bytes < open_folder(out).manifest.components[0].size_bytes


def test_another_checkpoint_has_no_integers_of_the_folder(once: Once, tmp_path: Path) -> None:
    folder, _ = _converted("gptq-desc-act", once)
    shutil.copytree(folder / "out", tmp_path / "out")
    _saved("gptq", tmp_path / "other", seed=3)
    with pytest.raises(UsageError):
        quantize(tmp_path / "out", "int4", checkpoint=tmp_path / "other")
    with pytest.raises(UsageError):
        quantize(tmp_path / "out", "int8", checkpoint=folder / "m")


def _logits(file: Path, ids: np.ndarray) -> np.ndarray:
    """Of a first call without a cache."""
    run = onnxruntime.InferenceSession(file)
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
    feeds = {
        one.name: known[one.name] if one.name in known
        else np.zeros([1, *(0 if isinstance(size, str) else size for size in one.shape[1:])], np.float32)
        for one in run.get_inputs()
    }  # fmt: skip
    found: np.ndarray = run.run(["logits"], feeds)[0]
    return found


def test_without_the_option_the_error_names_it(tmp_path: Path) -> None:
    _saved("gptq", tmp_path / "m")
    with pytest.raises(CheckpointError) as caught:
        judge_quantized(inspect_checkpoint(tmp_path / "m"), dequantize=False)
    assert "--dequantize" in str(caught.value.hint)


def _state(**changes: Any) -> torch.Tensor:
    """The settings of a weight of bitsandbytes."""
    settings = {"quant_type": "nf4", "blocksize": 16, "shape": [32, 32], **changes}
    return torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)


# What is damaged: (kind, change of the tensors of one layer, change of quantization_config).
_Q = "model.layers.0.self_attn.q_proj"
_DAMAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a part is missing": ("gptq", {"scales": None}, {}),
    "group size": ("gptq", {}, {"group_size": 8}),
    "group size 0": ("gptq", {}, {"group_size": 0}),
    "a group that does not exist": ("gptq", {"g_idx": torch.full((32,), 2, dtype=torch.int32)}, {}),
    "a negative group": ("gptq", {"g_idx": torch.full((32,), -1, dtype=torch.int32)}, {}),
    "bits": ("gptq", {}, {"bits": 8}),
    "3 bits": ("gptq", {}, {"bits": 3}),
    "bits in words": ("gptq", {}, {"bits": "four"}),
    "no order of desc_act": ("gptq", {"g_idx": None}, {"desc_act": True}),
    "marlin": ("gptq", {}, {"checkpoint_format": "marlin"}),
    "gemv": ("awq", {}, {"version": "gemv"}),
    "zero points": ("awq", {"qzeros": torch.zeros(3, 4, dtype=torch.int32)}, {}),
    "a type": ("awq", {"qweight": torch.zeros(32, 4)}, {}),
    "three axes": ("awq", {"qweight": torch.zeros(1, 32, 4, dtype=torch.int32)}, {}),
    "a huge shape": ("int4", {"weight_shape": torch.tensor([32, 2**40])}, {}),
    "another shape": ("int4", {"weight_shape": torch.tensor([32, 1000])}, {}),
    "a negative shape": ("int4", {"weight_shape": torch.tensor([32, -8])}, {}),
    "groups": ("int4", {}, {"config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 4}}}}),
    "no scheme": ("int4", {}, {"config_groups": [3]}),
    "transforms": ("int4", {}, {"transform_config": {"config_groups": {}}}),
    "sparse": ("int4", {}, {"sparsity_config": {"format": "sparse-24-bitmask"}}),
    "no scales": ("float8-blocks", {"weight_scale_inv": None}, {}),
    "scales of another grid": ("float8-blocks", {"weight_scale_inv": torch.ones(3, 3)}, {}),
    "blocks of nothing": ("float8-blocks", {}, {"weight_block_size": [0, 32]}),
    "no state": ("nf4", {"weight.quant_state.bitsandbytes__nf4": None}, {}),
    "state of another weight": ("nf4", {"weight.quant_state.bitsandbytes__nf4": _state(shape=[64, 32])}, {}),
    "blocks across rows": ("nf4", {"weight.quant_state.bitsandbytes__nf4": _state(blocksize=64)}, {}),
    "a state that is no JSON": ("nf4", {"weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)}, {}),
    "columns of a processor": ("bitsandbytes-8-bits", {"weight_format": torch.tensor(1)}, {}),
    "another method": ("gptq", {}, {"quant_method": "hqq"}),
}  # fmt: skip


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damaged_checkpoints_are_refused_before_they_are_loaded(damage: str, tmp_path: Path, capsys: Any) -> None:
    kind, tensors, settings = _DAMAGES[damage]
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({f"{_Q}.weight": torch.ones(32, 32)}, folder / "model.safetensors", metadata={"format": "pt"})
    pack_checkpoint(kind, folder)
    judge_quantized(inspect_checkpoint(folder), dequantize=True)
    found = load_file(folder / "model.safetensors")
    found |= {f"{_Q}.{part}": tensor for part, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        judge_quantized(inspect_checkpoint(folder), dequantize=True)
    assert caught.value.hint
    refusal(run(capsys, "convert", folder, tmp_path / "out", "--dequantize"), tmp_path / "out")
