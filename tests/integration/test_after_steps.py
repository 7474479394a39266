"""optimize, quantize and verify on what was converted."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnxruntime
import onnxruntime.quantization
import pytest

from onnxport import convert, optimize, quantize, verify
from onnxport.errors import FolderError, VerificationError
from tests.tiny import save

pytestmark = pytest.mark.integration


@pytest.fixture
def source(converted):
    return converted("bert-text-classification").source


@pytest.fixture
def folder(converted, tmp_path):
    return converted("bert-text-classification").copy(tmp_path / "out")


def run(file, inputs):
    return onnxruntime.InferenceSession(file).run(None, inputs)[0]


def inputs_of(rows=3, tokens=19):
    ids = np.random.default_rng(0).integers(5, 90, (rows, tokens))
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)}


def test_optimize_adds_a_fused_graph_with_the_same_numbers(folder):
    file = optimize(folder)
    assert file == folder / "onnx" / "model_optimized.onnx"
    np.testing.assert_allclose(run(file, inputs_of()), run(folder / "onnx" / "model.onnx", inputs_of()), atol=1e-5)
    manifest = json.loads((folder / "onnxport.json").read_text())
    operators = {c["name"]: c["operators"] for c in manifest["components"]}
    assert sum(operators["model_optimized"].values()) < sum(operators["model"].values())
    assert any("SkipLayerNormalization" in name for name in operators["model_optimized"])
    assert verify(folder).ok


def test_quantize_adds_int8_and_twice_is_once(folder):
    for _ in range(2):
        file = quantize(folder)
    assert file == folder / "onnx" / "model_quantized.onnx"
    manifest = json.loads((folder / "onnxport.json").read_text())
    assert [c["name"] for c in manifest["components"]] == ["model", "model_quantized"]
    difference = np.abs(run(file, inputs_of()) - run(folder / "onnx" / "model.onnx", inputs_of())).max()
    assert 0 < difference < 0.5
    assert verify(folder).ok


def test_an_int8_graph_that_could_be_wrong_elsewhere_fails_here_too(folder):
    file = quantize(folder)
    full_range(folder / "onnx" / "model.onnx", file)
    manifest = json.loads((folder / "onnxport.json").read_text())
    manifest["files"]["onnx/model_quantized.onnx"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "onnxport.json").write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match=r"model_quantized\.onnx gives wrong results") as caught:
        verify(folder)
    assert caught.value.exit_code == 1
    assert caught.value.hint == f"Make it again: onnxport quantize {folder}"
    quantize(folder)
    assert "onnx/model_quantized.onnx: the sums of 14 integer products fit on every processor" in verify(folder).notes


def full_range(source, target):
    """Weights as earlier versions rounded them."""
    onnxruntime.quantization.quantize_dynamic(
        source, target, weight_type=onnxruntime.quantization.QuantType.QInt8, per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
    )  # fmt: skip


def test_a_single_graph_and_an_int8_file_that_could_be_wrong_elsewhere(source, tmp_path):
    convert(None, source, tmp_path / "g" / "my.model.onnx", quantize=True)
    file, made = tmp_path / "g" / "my.model.onnx", tmp_path / "g" / "my.model-quantized.onnx"
    assert "fit on every processor" in verify(made).notes[0]
    full_range(file, made)
    with pytest.raises(VerificationError, match=r"onnxport quantize \S+my\.model\.onnx"):
        verify(made)
    assert quantize(file) == made  # the suffix goes before the last extension
    assert verify(made).ok and len(verify(file).notes) == 1
    assert optimize(file).name == "my.model-optimized.onnx"
    assert verify(tmp_path / "g" / "my.model-optimized.onnx", against=source).ok


def test_verify_finds_damage(folder):
    graph = folder / "onnx" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(FolderError, match=r"model\.onnx"):
        verify(folder)


def test_verify_against_the_source_and_against_another(folder, source, tmp_path):
    found = verify(folder, against=source)
    assert found.ok and found.verifications["model"].passed
    assert found.verifications["model"].max_abs_error < 1e-4
    other = save("bert-text-classification", tmp_path / "other", seed=1)
    with pytest.raises(VerificationError) as caught:
        verify(folder, against=other)
    assert caught.value.exit_code == 1
    assert found.path == folder
