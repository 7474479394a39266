"""GGUF files of known weights: what is loaded has the original model's numbers, or there is no graph.

What comes after loading is the same for all of them: one file is converted without a head, and one to write texts.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from onnxport import convert, pipeline
from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.errors import CheckpointError, MemoryLimitError, MissingDependencyError, TaskError, VerificationError
from onnxport.loading.load import load
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.resolve import resolve_model
from onnxport.loading.weight_loading import _bytes_in_memory
from onnxport.system.memory import BASE_BYTES, memory_limit

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from onnxport.verification.ledger.graph_weights import record_weights
from tests.tiny_gguf import Types, build, write_gguf

pytestmark = pytest.mark.integration

_IDS = np.arange(3, 17).reshape(2, 7)


def _loaded(source: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(hidden states of what a conversion would export, notes)."""
    loaded = load("feature-extraction", None, source, lazy=True)
    return _original(loaded.pipeline.model), loaded.notes


def _original(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(_IDS))[0].numpy()


ARCHITECTURES = ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "phi3", "starcoder2", "lfm2"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float32_is_the_original(name: str, tmp_path: Path) -> None:
    model = build(name)
    write_gguf(name, tmp_path / "m.gguf", model, tokenizer=name != "gemma2")
    found, notes = _loaded(tmp_path / "m.gguf")
    np.testing.assert_allclose(found, _original(model), rtol=1e-5, atol=1e-5)
    assert any("loaded into memory" in note for note in notes)
    assert not any("dequantized" in note for note in notes)


@pytest.mark.sweep
def test_a_graph_with_the_tokenizer_of_the_header(tmp_path: Path) -> None:
    model = build("llama")
    write_gguf("llama", tmp_path / "m.gguf", model, tokenizer=True)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')  # a neighbour's
    output = tmp_path / "out"
    assert convert(None, tmp_path / "m.gguf", output, pipeline_name="feature-extraction").passed
    session = onnxruntime.InferenceSession(output / "onnx" / "model.onnx")
    feeds = {"input_ids": _IDS, "attention_mask": np.ones_like(_IDS)}
    found = session.run(None, {given.name: feeds[given.name] for given in session.get_inputs()})[0]
    np.testing.assert_allclose(found, _original(model), rtol=1e-5, atol=1e-5)
    config = json.loads((output / "config.json").read_text())
    assert config["model_type"] == model.config.model_type
    assert config["architectures"][0].startswith(type(model).__name__.removesuffix("Model"))
    published = "".join(path.read_text() for path in output.glob("*.json*"))
    assert str(tmp_path) not in published and "/tmp" not in published
    nlp = pipeline(model=str(output))
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the and")["input_ids"]) == ["the", "\u0120", "and"]
    assert tokenizer.chat_template
    assert (output / "chat_template.jinja").is_file()
    assert np.asarray(nlp("the and")).shape == (1, 3, 64)


@pytest.mark.parametrize("kind", [Types.F16, Types.BF16, Types.Q8_0, Types.Q4_0], ids=lambda kind: kind.name)
def test_other_types_are_what_they_unpack_to(kind: Types, tmp_path: Path) -> None:
    model = build("qwen2")
    values = write_gguf("qwen2", tmp_path / "m.gguf", model, kind)
    found, notes = _loaded(tmp_path / "m.gguf")
    assert np.abs(found - _original(model)).max() > 1e-4  # it does matter
    with torch.no_grad():  # the original, with its weights rounded as they are in the file; Qwen2 changes no layout
        names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
                 "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
                 "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
                 "token_embd": "embed_tokens", "output_norm": "norm"}  # fmt: skip
        for name, value in values.items():
            *block, part, suffix = name.split(".")
            prefix = f"layers.{block[1]}." if block else ""
            model.get_parameter(f"{prefix}{names[part]}.{suffix}").copy_(torch.from_numpy(np.array(value)))
    np.testing.assert_allclose(found, _original(model), rtol=1e-5, atol=1e-5)
    if kind in (Types.Q8_0, Types.Q4_0):
        assert f"{kind.name} weights were dequantized to float32." in notes
    else:
        dtype = {Types.F16: "float16", Types.BF16: "bfloat16"}[kind]
        assert f"The weights are stored as {dtype} and were loaded as float32 (exactly)." in notes


def test_no_tokenizer_and_a_broken_one(tmp_path: Path) -> None:
    model = build("qwen2")
    write_gguf("qwen2", tmp_path / "none.gguf", model)
    _, notes = _loaded(tmp_path / "none.gguf")
    assert "There is no tokenizer in the checkpoint; inputs are generated." in notes
    write_gguf("qwen2", tmp_path / "odd.gguf", model, tokenizer=True, tokenizer_model="abacus")
    _, notes = _loaded(tmp_path / "odd.gguf")
    assert any("tokenizer in the GGUF file cannot be used" in note and "abacus" in note for note in notes)
    assert "There is no tokenizer in the checkpoint; inputs are generated." in notes


def test_a_folder_with_a_config(tmp_path: Path) -> None:
    """What transformers does not read from the header comes from config.json beside it."""
    model = build("qwen3-narrow")
    folder = tmp_path / "m"
    folder.mkdir()
    write_gguf("qwen3-narrow", folder / "m.gguf", model)
    with pytest.raises(CheckpointError, match="lack"):
        convert(None, folder, tmp_path / "out", pipeline_name="feature-extraction")
    model.config.save_pretrained(folder)
    found, _ = _loaded(folder)
    np.testing.assert_allclose(found, _original(model), rtol=1e-5, atol=1e-5)


def test_rotary_factors_need_the_original_config(tmp_path: Path) -> None:
    model = build("llama3")
    folder = tmp_path / "m"
    folder.mkdir()
    factors = {"rope_freqs.weight": np.ones(8, np.float32)}  # whatever they are: config.json has them as a formula
    write_gguf("llama3", folder / "m.gguf", model, extra=factors)
    with pytest.raises(CheckpointError, match="rope_freqs") as caught:
        convert(None, folder, tmp_path / "out", pipeline_name="feature-extraction")
    assert caught.value.hint is not None and "config.json" in caught.value.hint
    model.config.save_pretrained(folder)
    found, _ = _loaded(folder)
    np.testing.assert_allclose(found, _original(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "extra", "part"),
    [
        ({"llama.rope.scaling.type": "yarn"}, {}, "rope.scaling.type = yarn"),
        ({}, {"rope_freqs.weight": np.ones(8, np.float32)}, "rope_freqs.weight"),
        ({"llama.attention.sliding_window": 8}, {}, "attention.sliding_window = 8"),
        ({"llama.attn_logit_softcapping": 30.0}, {}, "attn_logit_softcapping = 30.0"),
        ({"llama.attention.layer_norm_epsilon": 0.5}, {}, "attention.layer_norm_epsilon = 0.5"),
        ({}, {"blk.0.strange.weight": np.ones((2, 32), np.float32)}, "64 numbers"),
    ],
    ids=["scaling", "factors", "window", "softcap", "epsilon", "tensor"],
)
def test_what_transformers_would_pass_over(keys: dict, extra: dict, part: str, tmp_path: Path) -> None:
    """If one of these fails after an upgrade because it is converted: does transformers read the key now?"""
    write_gguf("llama", tmp_path / "m.gguf", build("llama"), keys=keys, extra=extra)
    with pytest.raises(CheckpointError) as caught:
        convert(None, tmp_path / "m.gguf", tmp_path / "out", pipeline_name="feature-extraction")
    assert part in caught.value.message and caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_base_of_the_rotary_positions_that_is_not_read(tmp_path: Path) -> None:
    key = {"starcoder2.rope.freq_base": 999999.0}
    write_gguf("starcoder2", tmp_path / "m.gguf", build("starcoder2"), keys=key)
    with pytest.raises(CheckpointError, match=r"rope\.freq_base = 999999\.0.*has 10000\.0"):
        convert(None, tmp_path / "m.gguf", tmp_path / "out", pipeline_name="feature-extraction")


def test_a_head_is_left_out_of_hidden_states(tmp_path: Path) -> None:
    model = build("llama")
    write_gguf("llama", tmp_path / "m.gguf", model, extra={"output.weight": np.ones((128, 64), np.float32)})
    found, _ = _loaded(tmp_path / "m.gguf")
    np.testing.assert_allclose(found, _original(model), rtol=1e-5, atol=1e-5)


def test_a_decoder_generates_unless_another_task_is_named(tmp_path: Path) -> None:
    write_gguf("llama", tmp_path / "m.gguf", build("llama"))
    conversion = convert(None, tmp_path / "m.gguf", tmp_path / "out")
    assert conversion.passed and conversion.manifest.task == "text-generation"
    assert "There is no tokenizer in the checkpoint; inputs are generated." in conversion.manifest.notes
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert sum("greedy" in case.name for case in conversion.manifest.components[0].verification.cases) == 3


def test_refusals_on_the_command_line(refused: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_gguf("llama", file, build("llama"))
    raw = file.read_bytes()
    file.write_bytes(raw[:-100])
    assert "is cut off" in refused(file, tmp_path / "out", writes=tmp_path / "out")
    file.write_bytes(raw.replace(b"llama", b"bertx"))
    said = refused(file, tmp_path / "out", "--task", "feature-extraction", writes=tmp_path / "out")
    assert "architecture 'bertx'" in said and "transformers" in said


def test_another_task_than_the_files(tmp_path: Path) -> None:
    write_gguf("llama", tmp_path / "m.gguf", build("llama"))
    with pytest.raises(TaskError, match="fill-mask"):
        convert(None, tmp_path / "m.gguf", tmp_path / "out", pipeline_name="fill-mask")
    with pytest.raises(CheckpointError, match=r"score\.weight"):
        convert(None, tmp_path / "m.gguf", tmp_path / "out", pipeline_name="text-classification")


def test_memory_for_what_is_unpacked(tmp_path: Path) -> None:
    model = build("qwen2")
    write_gguf("qwen2", tmp_path / "m.gguf", model, Types.Q4_0)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert (tmp_path / "m.gguf").stat().st_size < size / 3
    checkpoint = inspect_checkpoint(tmp_path / "m.gguf")
    assert _bytes_in_memory(checkpoint, None) == size
    assert _bytes_in_memory(checkpoint, "float16") == size // 2
    with memory_limit(BASE_BYTES + size - 1), pytest.raises(MemoryLimitError):
        load("feature-extraction", None, tmp_path / "m.gguf", lazy=True)


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf("llama", tmp_path / "m.gguf", build("llama"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(MissingDependencyError) as caught:
        convert(None, tmp_path / "m.gguf", tmp_path / "out", pipeline_name="feature-extraction")
    assert caught.value.hint == 'pip install "onnxport[gguf]"'


def _swapped(model: torch.nn.Module) -> None:
    first, second = (model.layers[number].mlp.gate_proj for number in (0, 1))
    first.weight, second.weight = second.weight, first.weight


def _one_number(model: torch.nn.Module) -> None:
    with torch.no_grad():
        model.layers[1].self_attn.q_proj.weight[5, 3] += 1e-6


@pytest.mark.parametrize("change", [_swapped, _one_number])
def test_weights_in_memory_are_those_of_the_file(tmp_path: Path, change: Callable[[torch.nn.Module], None]) -> None:
    """llama.cpp stores queries and keys with their rows in another order."""
    file = tmp_path / "m.gguf"
    write_gguf("llama", file, build("llama"), Types.Q8_0)
    to_export = load_model_to_export(resolve_model(file), "feature-extraction")
    record_weights(to_export)
    change(to_export.pipeline.model)
    with pytest.raises(VerificationError) as caught:
        record_weights(to_export)
    assert "m.gguf" in caught.value.message
