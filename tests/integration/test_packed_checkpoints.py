"""Checkpoints that store weights quantized: `dequantize` gives the numbers that they stand for, proved to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from onnxport import convert
from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.cli.main import app
from onnxport.errors import CheckpointError
from onnxport.loading.load import load
from onnxport.weights.lazy import LazyTensor
from tests.packed_checkpoints import KINDS, pack_checkpoint
from tests.tiny_decoders import save_decoder

pytestmark = pytest.mark.integration


def _saved(kind: str, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    save_decoder("llama", folder, **{"num_hidden_layers": 1, **changes})
    return pack_checkpoint(kind, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_were_packed(kind: str, tmp_path: Path) -> None:
    expected = _saved(kind, tmp_path)
    loaded = load("text-generation", None, tmp_path, dequantize=True, lazy=kind != "awq")
    own = loaded.pipeline.model.state_dict()
    assert len(expected) == 7
    for name, values in expected.items():
        assert isinstance(own[name], LazyTensor) == (kind != "awq")
        found = own[name].clone() + 0
        assert torch.equal(found, values), name
    assert any("dequantized" in note for note in loaded.notes)
    assert getattr(loaded.pipeline.model.config, "quantization_config", None) is None


@pytest.mark.parametrize("kind", ["gptq-desc-act", pytest.param("float8-blocks", marks=pytest.mark.sweep)])
def test_the_converted_model_has_the_outputs_of_the_dequantized_one(kind: str, tmp_path: Path) -> None:
    expected = _saved(kind, tmp_path / "m")
    conversion = convert(None, tmp_path / "m", tmp_path / "out", pipeline_name="text-generation", dequantize=True)
    assert conversion.passed
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    plain = {name: tensor.float() for name, tensor in load_file(tmp_path / "m" / "model.safetensors").items()
             if not name.rpartition(".")[0].endswith("_proj")}  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(config)).eval()
    model.load_state_dict(plain | expected)
    ids = np.arange(3, 20)[None]
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(ids)).logits.numpy()
    from onnxport.runtime import session  # noqa: F401
    import onnxruntime

    graph = conversion.manifest.components[0]
    file = tmp_path / "out" / graph.file
    run = onnxruntime.InferenceSession(file)
    feeds: dict[str, Any] = {}
    for given in run.get_inputs():
        shape = [1 if isinstance(size, str) and "batch" in size else size for size in given.shape]
        if given.name == "input_ids":
            feeds[given.name] = ids
        elif given.name == "attention_mask":
            feeds[given.name] = np.ones_like(ids)
        elif given.name == "position_ids":
            feeds[given.name] = np.arange(ids.shape[1])[None]
        else:
            feeds[given.name] = np.zeros([0 if isinstance(size, str) else size for size in shape], np.float32)
    np.testing.assert_allclose(run.run(["logits"], feeds)[0], wanted, rtol=1e-4, atol=1e-4)
    proofs = graph.ledger.weights
    assert {proof.proof for name, proof in proofs.items() if "_proj" in proof.origins} <= {"exact", "transformed"}
    assert onnx.load(file, load_external_data=False) is not None
