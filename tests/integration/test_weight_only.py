"""Rounded weights in folders, against models of transformers with weights that this file rounds itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from onnxport import convert, optimize, quantize, verify
from onnxport.artifact.folder import open_folder
from onnxport.errors import UsageError, VerificationError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.session import OnnxSession
from onnxport.variants.loss import measure_loss
from onnxport.variants.samples import sample_inputs

pytestmark = pytest.mark.integration

WORDS = 320


def save_tied_llama(folder):
    """Large enough that its table is read by Gather and by the output layer."""
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def round_in_blocks(model, bits, scales=torch.float32):
    """Every linear layer and table, in place: blocks of 32 along the inputs, the furthest number the lowest."""
    middle = 2 ** (bits - 1)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            blocks = module.weight.data.reshape(len(module.weight), -1, 32)
            furthest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
            scale = (furthest / -middle).to(scales).float()
            module.weight.data = ((blocks / scale).round().clip(-middle, middle - 1) * scale).reshape_as(module.weight)
    model.tie_weights()


def round_as_bitsandbytes(model):
    """The linear layers but the output layer, which is the table: the nearest of 16 levels of the largest of 64."""
    normal = torch.distributions.Normal(0, 1).icdf
    low, high = normal(torch.linspace(0.9677083, 0.5, 8))[:-1], normal(torch.linspace(0.9677083, 0.5, 9))[:-1]
    levels = torch.cat([-low / low[0], torch.zeros(1), high.flip(0) / high[0]])
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            blocks = module.weight.data.reshape(-1, 64)
            largest = blocks.abs().amax(-1, keepdim=True)
            nearest = (blocks[..., None] / largest[..., None] - levels).abs().argmin(-1)
            module.weight.data = (levels[nearest] * largest).reshape_as(module.weight)


def converted_tied_llama(once):
    """(the checkpoint, its folder), for all tests of a run"""
    folder, _ = once("tied-llama", lambda root: convert(None, save_tied_llama(root / "m"), root / "out"))
    return folder / "m", folder / "out"


@pytest.fixture(scope="module")
def llama(once):
    return converted_tied_llama(once)


@pytest.fixture(scope="module")
def bart(converted):
    return converted("bart", {"vocabulary": 8192}).folder


def large_tables(file):
    """Bytes of the weights that are as long as the vocabulary."""
    return [len(t.raw_data) for t in onnx.load(file).graph.initializer if t.dims[:1] == [WORDS] and t.data_type == 2]


@pytest.mark.parametrize(
    ("precision", "bits", "name"),
    [
        ("int4", 4, "model_q4"),
        ("int8-weights", 8, "model_int8"),
        ("q4f16", 4, "model_q4f16"),
        ("bnb4", None, "model_bnb4"),
    ],
)
def test_the_logits_are_those_of_the_rounded_model(llama, tmp_path, precision, bits, name):
    source, converted = llama
    folder = shutil.copytree(converted, tmp_path / "out")
    file = quantize(folder, precision, float_activations=precision in ("int4", "int8-weights"))
    assert file == folder / "onnx" / f"{name}.onnx"
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    ids = np.random.default_rng(1).integers(3, WORDS, (3, 23))
    with torch.no_grad():
        before = model(torch.from_numpy(ids)).logits.numpy()
        if bits is None:
            round_as_bitsandbytes(model)
        else:
            round_in_blocks(model, bits, torch.float16 if precision == "q4f16" else torch.float32)
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    decoder = Decoder(OnnxSession(folder, name))
    progress = decoder.start(3)
    scale = np.abs(wanted).max()
    for start, end in ((0, 17), (17, 18), (18, 23)):
        found = decoder.step(progress, ids[:, start:end])
        assert np.abs(found - wanted[:, end - 1]).max() < (1e-2 if precision == "q4f16" else 1e-4) * scale
    assert np.abs(before - wanted).max() > 1e-3 * scale  # rounding can be seen


def test_what_the_manifest_says_of_it(llama, tmp_path):
    source, converted = llama
    folder = shutil.copytree(converted, tmp_path / "out")
    for _ in range(2):  # twice is once
        quantize(folder, precision="int4")
    components = {c["name"]: c for c in json.loads((folder / "onnxport.json").read_text())["components"]}
    assert list(components) == ["model", "model_q4"]
    rounded = components["model_q4"]
    assert rounded["precision"] == "int4"
    assert rounded["operators"]["com.microsoft::MatMulNBits"] == 15
    # onnxruntime-web has no kernel for it on WASM.
    assert not any("GatherBlockQuantized" in name for name in rounded["operators"])
    # 4 bits and a scale for 32 numbers; the table once.
    assert large_tables(folder / "onnx" / "model_q4.onnx") == [WORDS * 64 // 2]
    assert rounded["size_bytes"] < 0.35 * components["model"]["size_bytes"]
    found = rounded["verification"]
    exact = [case for case in found["cases"] if case["name"].endswith("float32 activations")]
    assert found["passed"] and len(exact) * 2 == len(found["cases"])
    assert max(o["max_rel_error"] for case in exact for o in case["outputs"]) < 1e-4
    distance = found["distance"]
    assert distance["max_rel_error"] > 0.01 and distance["decision"] == "token"
    assert 0 < distance["agreement"] <= 1 and 0 < distance["greedy_agreement"] <= 1
    assert verify(folder).ok
    assert verify(folder, against=source).verifications["model_q4"].passed


def test_a_wrong_scale_is_found(llama, tmp_path, monkeypatch):
    from onnxport.graph.quantization import block_tensors

    right = block_tensors.quantize_blocks

    def wrong(tensor, bits, **options):
        made = right(tensor, bits, **options)
        made.scales[-1, -1] *= 1.5
        return made

    monkeypatch.setattr(block_tensors, "quantize_blocks", wrong)
    folder = shutil.copytree(llama[1], tmp_path / "out")
    with pytest.raises(VerificationError, match="float32 activations"):
        quantize(folder, "int4")
    assert not (folder / "onnx" / "model_q4.onnx").exists() and verify(folder).ok


@pytest.mark.sweep
def test_both_graphs_of_an_encoder_decoder(bart, tmp_path):
    folder = shutil.copytree(bart, tmp_path / "out")
    assert quantize(folder, "int4").name == "decoder_model_merged_q4.onnx"
    components = {c["name"]: c for c in json.loads((folder / "onnxport.json").read_text())["components"]}
    names = ["encoder_model", "decoder_model_merged"]
    assert list(components) == [*names, *(f"{name}_q4" for name in names)]
    # The table is stored once, beside the encoder.
    assert "onnx/encoder_model_q4.onnx_data" in components["decoder_model_merged_q4"]["data_files"]
    sizes = {name: sum((folder / "onnx" / f).stat().st_size for f in files(folder, name)) for name in ("", "_q4")}
    assert sizes["_q4"] < 0.5 * sizes[""]
    assert components["decoder_model_merged_q4"]["verification"]["distance"]["greedy_agreement"] is not None
    assert verify(folder).ok
    optimize(folder)
    quantize(folder)
    suffixes = ("", "_q4", "_optimized", "_quantized")
    names = {f"{name}{suffix}" for name in names for suffix in suffixes}
    assert {c["name"] for c in json.loads((folder / "onnxport.json").read_text())["components"]} == names
    assert verify(folder).ok


def files(folder, suffix):
    return [
        path.name
        for path in (folder / "onnx").iterdir()
        if path.name.startswith((f"encoder_model{suffix}.onnx", f"decoder_model_merged{suffix}.onnx"))
    ]


def test_beside_a_single_graph(llama, tmp_path):
    graph = shutil.copy(llama[1] / "onnx" / "model.onnx", tmp_path / "my.onnx")
    file = quantize(graph, "int4")
    assert file == tmp_path / "my-q4.onnx"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my-q4.onnx", "my.onnx"]
    assert "num_logits_to_keep" in [v.name for v in onnxruntime.InferenceSession(file).get_overridable_initializers()]


def test_what_cannot_be_done_is_said(llama, tmp_path):
    with pytest.raises(UsageError, match="precision 'int3' does not exist"):
        quantize(llama[1], "int3")
    with pytest.raises(UsageError, match="always quantizes activations"):
        quantize(llama[1], float_activations=True)
    x = onnx.helper.make_tensor_value_info("x", 1, ["n"])
    y = onnx.helper.make_tensor_value_info("y", 1, ["n"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "neg.onnx")
    with pytest.raises(UsageError) as told:
        quantize(tmp_path / "neg.onnx", "int4")
    assert "no weights" in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["neg.onnx"]


def test_the_most_sensitive_weights_of_embeddings_have_8_bits(converted, tmp_path, monkeypatch):
    folder = converted("bert-text-classification", pipeline_name="feature-extraction").copy(tmp_path / "out")
    losses, raised = [], []
    for budget in (lambda: 1.0, lambda: losses[0] / 3):
        limit = budget()
        monkeypatch.setattr("onnxport.variants.sensitivity.BUDGET", limit)
        quantize(folder, "int4")
        opened = open_folder(folder)
        base, rounded = (opened.manifest.find(name) for name in ("model", "model_q4"))
        calls = sample_inputs(opened, base).arrays
        one, other = (OnnxSession(opened.file(component)) for component in (base, rounded))
        losses.append(measure_loss(one.run, other.run, calls, "").mean)
        names = {name for name in rounded.ledger.weights if name.endswith((".q4", ".q8"))}
        raised.append(rounded.raised_weights)
        assert {name for name in names if name.endswith(".q8")} == {f"{name}.q8" for name in raised[-1]}
    assert raised[0] == () and 0 < len(raised[1]) < len(names)
    assert losses[1] < 1.3 * losses[0] / 3
    assert verify(folder).ok
