"""Models whose weights stay in their files: what transformers makes of them, and their bytes in blocks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.errors import CheckpointError
from onnxport.loading import weight_loading
from onnxport.loading.options import LoadOptions
from onnxport.loading.weights import load_model
from onnxport.system.output_capture import capture_process
from onnxport.weights import blocks as block_module
from onnxport.weights.blocks import blocks, narrow
from onnxport.weights.lazy import LazyTensor, copied_bytes, evaluate, in_memory, leaves
from onnxport.weights.origins import Stored
from onnxport.weights.placeholders import new_fake_mode, placeholders
from onnxport.weights.reading import shared_mappings
from onnxport.weights.stored import lazy_state_dict
from tests.tiny import save

pytestmark = pytest.mark.integration

_DECODER = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 64,
}  # fmt: skip


def _llama_tied() -> torch.nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_DECODER, tie_word_embeddings=True))


def _qwen3_moe() -> torch.nn.Module:
    config = transformers.Qwen3MoeConfig(
        **_DECODER, moe_intermediate_size=48, num_experts=4, num_experts_per_tok=2, head_dim=16
    )
    return transformers.Qwen3MoeForCausalLM(config)


def _gpt2() -> torch.nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=300))


def _checkpoint(make: Callable[[], torch.nn.Module], folder: Path, dtype: torch.dtype, **how: object) -> Path:
    torch.manual_seed(1)
    model = make().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases start as ones and zeros, all alike
            parameter.add_(torch.randn_like(parameter) * 0.02)
    with capture_process():
        model.save_pretrained(folder, **how)
    return folder


def _load(folder: Path, auto: str, *, lazy: bool, pickle: bool = False):
    checkpoint = inspect_checkpoint(folder, allow_pickle=pickle)
    with capture_process():
        return load_model(folder, checkpoint, [auto], LoadOptions(lazy=lazy, allow_pickle=pickle))


def _logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(2 * 7).reshape(2, 7)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("make", [_llama_tied, _qwen3_moe, _gpt2], ids=lambda make: make.__name__.strip("_"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_transformers_loads_lazy_tensors_without_reading_them(tmp_path, monkeypatch, make, dtype):
    """If this fails after an upgrade, transformers computes on tensors while loading: see `lazy._RECORDED`."""
    folder = _checkpoint(make, tmp_path / "m", dtype, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    plain = _load(folder, "AutoModelForCausalLM", lazy=False)
    with monkeypatch.context() as patch:
        patch.setattr("onnxport.weights.reading.read", lambda stored, like: pytest.fail(f"{stored} was read"))
        lazy = _load(folder, "AutoModelForCausalLM", lazy=True)
    assert type(lazy.model) is type(plain.model)
    assert lazy.missing == plain.missing == ()
    for name, parameter in lazy.model.named_parameters():
        assert isinstance(parameter, LazyTensor), name
        assert all(isinstance(leaf, Stored) for leaf in leaves(parameter)), name
        assert torch.equal(torch.cat([b.flatten() for b in blocks(parameter.detach())]),
                           plain.model.get_parameter(name).flatten()), name  # fmt: skip
    assert torch.equal(_logits(lazy.model), _logits(plain.model))


def test_experts_saved_one_by_one_are_merged_by_record(tmp_path):
    folder = _checkpoint(_qwen3_moe, tmp_path / "m", torch.float32)
    names = lazy_state_dict(sorted(folder.glob("*.safetensors")), "safetensors")
    assert "model.layers.0.mlp.experts.3.gate_proj.weight" in names
    model = _load(folder, "AutoModelForCausalLM", lazy=True).model
    merged = model.get_parameter("model.layers.0.mlp.experts.gate_up_proj")
    assert len(list(leaves(merged))) == 8  # gate and up of four experts


@pytest.mark.parametrize("name", ["wav2vec2-automatic-speech-recognition", "resnet-image-classification"])
def test_buffers_and_parametrized_weights(tmp_path, name):
    """Running statistics of a batch norm are in the checkpoint; a weight norm computes on its parameters."""
    folder = save(name, tmp_path / "m")
    auto = "AutoModelForCTC" if "speech" in name else "AutoModelForImageClassification"
    inputs = {"input_values": torch.randn(1, 4000)} if "speech" in name else {"pixel_values": torch.randn(1, 3, 40, 40)}
    models = [_load(folder, auto, lazy=lazy).model for lazy in (False, True)]
    with torch.no_grad():
        plain, lazy = (model(**inputs).logits for model in models)
    torch.testing.assert_close(plain, lazy, rtol=1e-6, atol=1e-5)  # a kernel may sum by the address of its input
    states = [model.state_dict(keep_vars=True) for model in models]
    assert states[0].keys() == states[1].keys()
    for (key, plain), lazy in zip(states[0].items(), states[1].values(), strict=True):
        assert torch.equal(plain, evaluate(lazy) if isinstance(lazy, LazyTensor) else lazy), key


def test_pickled_weights_are_mapped(tmp_path):
    folder = _checkpoint(_gpt2, tmp_path / "m", torch.float32)
    state = _load(folder, "AutoModelForCausalLM", lazy=False).model.state_dict()
    names = sorted(state)
    index = {"metadata": {}, "weight_map": {}}
    for shard, part in enumerate((names[::2], names[1::2])):
        torch.save({name: state[name] for name in part}, folder / f"pytorch_model-{shard}.bin")
        index["weight_map"] |= dict.fromkeys(part, f"pytorch_model-{shard}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    plain, lazy = (_load(folder, "AutoModelForCausalLM", lazy=lazy, pickle=True).model for lazy in (False, True))
    assert all(isinstance(parameter, LazyTensor) for parameter in lazy.parameters())
    assert torch.equal(_logits(plain), _logits(lazy))


def test_what_loading_computes_is_held_and_told(monkeypatch):
    model = torch.nn.Linear(3000, 1500)  # as if none of it were lazy
    assert weight_loading.computed_notes(model, ["weight"]) == ()
    assert weight_loading.computed_notes(model, []) == (
        "2 weights (18 MB) were computed while loading and held in memory.",
    )


def test_a_quantized_checkpoint_is_loaded_by_transformers(tmp_path):
    folder = _checkpoint(_gpt2, tmp_path / "m", torch.float32)
    checkpoint = inspect_checkpoint(folder, allow_pickle=False)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.quantization_config = {"quant_method": "fp8"}
    plan = weight_loading.plan_loading(
        checkpoint, folder, transformers.AutoModelForCausalLM, config, LoadOptions(lazy=True)
    )
    assert (plan.is_lazy, plan.location) == (False, folder)
    assert plan.notes == ("The weights were loaded into memory: they are quantized.",)


@pytest.mark.parametrize("name", ["bert-fill-mask", "clip-zero-shot-image-classification", "detr-image-segmentation"])
def test_the_class_is_the_one_that_the_auto_class_takes(tmp_path, name):
    folder = save(name, tmp_path / "m")
    config = transformers.AutoConfig.from_pretrained(folder)
    for auto in (transformers.AutoModel, transformers.AutoModelForMaskedLM, transformers.AutoModelForImageSegmentation):
        if type(config) in auto._model_mapping:
            with torch.device("meta"), capture_process():
                expected = type(auto.from_config(config))
            assert weight_loading.model_class(auto, config)[0] is expected


def test_generation_config_comes_along(tmp_path):
    folder = _checkpoint(_gpt2, tmp_path / "m", torch.float32)
    generation = transformers.GenerationConfig(max_length=17, eos_token_id=5)
    generation.save_pretrained(folder)
    plain, lazy = (_load(folder, "AutoModelForCausalLM", lazy=lazy).model for lazy in (False, True))
    assert plain.generation_config.to_dict() == lazy.generation_config.to_dict()


def test_a_file_that_shrinks_is_told(tmp_path):
    save_file({"x": torch.randn(100)}, tmp_path / "x.safetensors")
    tensor = lazy_state_dict([tmp_path / "x.safetensors"], "safetensors")["x"]
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:-8])
    with pytest.raises(CheckpointError, match=r"x\.safetensors has become shorter"):
        evaluate(tensor)


def test_writing_into_a_parameter_does_not_reach_the_file(tmp_path):
    large = torch.randn(3 * 2**20)  # mapped, not read
    save_file({"x": large}, tmp_path / "x.safetensors")
    tensor = lazy_state_dict([tmp_path / "x.safetensors"], "safetensors")["x"]
    evaluate(tensor).zero_()
    assert torch.equal(evaluate(tensor), large)


def test_placeholders_keep_ties_and_are_taken_back(tmp_path):
    folder = _checkpoint(_llama_tied, tmp_path / "m", torch.float32)
    model = _load(folder, "AutoModelForCausalLM", lazy=True).model
    before = dict(model.named_parameters())
    with pytest.raises(RuntimeError, match="inside"), placeholders(model, new_fake_mode()):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert not any(isinstance(parameter, LazyTensor) for parameter in model.parameters())
        raise RuntimeError("inside")
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


# ---------------------------------------------------------------------------- any record, any cut

_SHAPE = (4, 6, 5)


@st.composite
def _steps(draw: st.DrawFn) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Operations that loading does, in any order, on a tensor of any rank."""

    def axis(tensor: torch.Tensor, number: int) -> int:
        return number % tensor.dim()

    def cut(tensor: torch.Tensor, number: int) -> torch.Tensor:
        size = tensor.shape[axis(tensor, number)]
        return tensor.narrow(axis(tensor, number), min(1, size - 1), max(1, size - 1))

    number = draw(st.integers(0, 5))
    kinds: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "cast": lambda t: t.to(torch.float64 if t.dtype == torch.float32 else torch.float32),
        "transpose": lambda t: t.transpose(axis(t, number), -1),
        "permute": lambda t: t.permute(*reversed(range(t.dim()))),
        "slice": lambda t: cut(t, number),
        "select": lambda t: t.select(axis(t, number), -1) if t.dim() > 1 else t,
        "split": lambda t: t.split(2, axis(t, number))[-1],
        "sizes": lambda t: t.split([1, t.shape[axis(t, number)] - 1], axis(t, number))[1] if min(t.shape) > 1 else t,
        "unbind": lambda t: t.unbind(axis(t, number))[0] if t.dim() > 1 else t,
        "cat": lambda t: torch.cat([t, t], axis(t, number)),
        "stack": lambda t: torch.stack([t, t, t], axis(t, number)),
        "unsqueeze": lambda t: t.unsqueeze(axis(t, number)),
        "squeeze": lambda t: t.squeeze(axis(t, number)) if t.dim() > 1 else t,
        "reshape": lambda t: t.reshape(t.shape[0], -1),
        "flatten": lambda t: t.reshape(-1),
        "clone": lambda t: t.clone(),
    }
    return [kinds[name] for name in draw(st.lists(st.sampled_from(sorted(kinds)), max_size=5))]


@settings(max_examples=150, deadline=None)
@given(_steps(), _steps(), st.sampled_from([24, 100, 4000]), st.data())
def test_any_record_in_any_blocks(tmp_path_factory, first, second, limit, data):
    folder = tmp_path_factory.getbasetemp()
    file = folder / "any.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        save_file({"pad": torch.ones(3, dtype=torch.uint8), "x": torch.randn(_SHAPE)}, file)
    tensor = lazy_state_dict([file], "safetensors")["x"]
    expected = evaluate(tensor)
    for step in (*first, *second):
        if expected.numel() > 3000:
            break
        tensor, expected = step(tensor), step(expected)
    assert isinstance(tensor, LazyTensor)
    assert (tensor.shape, tensor.dtype) == (expected.shape, expected.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_module, "BLOCK_BYTES", limit)
        pieces = list(blocks(tensor))
    assert torch.equal(torch.cat([piece.flatten() for piece in pieces]), expected.contiguous().flatten())
    if tensor.dim() and tensor.numel():
        axis = data.draw(st.integers(0, tensor.dim() - 1))
        start = data.draw(st.integers(0, tensor.shape[axis] - 1))
        length = data.draw(st.integers(1, tensor.shape[axis] - start))
        piece = narrow(tensor, axis, start, length)
        if piece is not None:
            assert torch.equal(evaluate(piece), expected.narrow(axis, start, length))


def test_no_block_is_larger_than_it_must_be(tmp_path, monkeypatch):
    """A transposed, cast and merged matrix is cut down to its files: none of it is made whole."""
    save_file({name: torch.randn(64, 96).bfloat16() for name in "ab"}, tmp_path / "x.safetensors")
    state = lazy_state_dict([tmp_path / "x.safetensors"], "safetensors")
    merged = torch.stack([state["a"].float().t(), state["b"].float().t()])
    monkeypatch.setattr(block_module, "BLOCK_BYTES", 2048)
    sizes = [block.numel() * block.element_size() for block in blocks(merged)]
    assert sum(sizes) == 2 * 64 * 96 * 4
    assert max(sizes) <= 2048


def test_what_computing_a_weight_takes(tmp_path):
    save_file({name: torch.randn(64, 96).bfloat16() for name in "ab"}, tmp_path / "x.safetensors")
    state = lazy_state_dict([tmp_path / "x.safetensors"], "safetensors")
    assert copied_bytes(state["a"].detach()) == 0  # mapped
    assert copied_bytes(in_memory(torch.randn(64, 96))) == 0  # in memory, or mapped, already
    assert copied_bytes(in_memory(torch.randn(64, 96)).double()) == 64 * 96 * 8
    assert copied_bytes(state["a"].float()) == 64 * 96 * 4
    merged = torch.cat([state["a"], state["b"]]).float()  # the parts, and the whole
    assert copied_bytes(merged) == 2 * (2 * 64 * 96 * 4)


def test_kept_maps_are_one_of_the_file(tmp_path):
    values = {"norm": torch.randn(16), "small": torch.randn(2**15), "large": torch.randn(3 * 2**20)}
    save_file(values, tmp_path / "x.safetensors")
    tensors = lazy_state_dict([tmp_path / "x.safetensors"], "safetensors")
    with shared_mappings():
        for name, wanted in values.items():
            assert torch.equal(evaluate(tensors[name]), wanted)
        for name in ("small", "large"):
            assert evaluate(tensors[name]) is evaluate(tensors[name])
        evaluate(tensors["small"]).zero_()  # into a page of its own
    assert torch.equal(evaluate(tensors["small"]), values["small"])


def test_a_file_that_shrank_is_told_where_maps_are_kept(tmp_path):
    save_file({"x": torch.randn(2**16)}, tmp_path / "x.safetensors")
    tensor = lazy_state_dict([tmp_path / "x.safetensors"], "safetensors")["x"]
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:-8])
    with shared_mappings(), pytest.raises(CheckpointError, match=r"x\.safetensors has become shorter"):
        evaluate(tensor)
