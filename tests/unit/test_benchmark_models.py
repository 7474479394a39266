"""The generated checkpoints of benchmarks/scale.py are ones that transformers loads whole."""

from dataclasses import replace

import pytest
import torch
import transformers

from benchmarks.memory_limit import parse_size
from benchmarks.scale_models import MODELS, Model, generate

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = _SMALL | {"num_key_value_heads": 2, "vocab_size": 300}
_TINY = {
    "bert-base": _SMALL | {"vocab_size": 300},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300},
    "llama-2.5gb": _DECODER,
    "llama-bf16-5gb": _DECODER,
    "llama-10gb": _DECODER,
    "moe-1.3gb": _DECODER | {"moe_intermediate_size": 16, "num_experts": 4, "head_dim": 8},
}


def _tiny(name: str) -> Model:
    model = MODELS[name]
    return replace(model, config=model.config | _TINY[name], shard_bytes=40_000)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_transformers_loads_every_family_whole(name, tmp_path):
    size = generate(_tiny(name), tmp_path / "made")
    loader = getattr(transformers, MODELS[name].architecture)
    model, info = loader.from_pretrained(tmp_path / "made", dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    assert str(model.dtype) == f"torch.{MODELS[name].dtype}"
    assert size["weights"] == sum(parameter.nbytes for parameter in model.parameters())
    assert size["files"] == len(list((tmp_path / "made").glob("*.safetensors"))) > 1
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    tokens = tokenizer(["A sentence.", "Another one, longer."], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.float()(**tokens).logits
    assert logits.isfinite().all()
    assert logits.std() > 0


def test_the_numbers_are_like_those_of_a_trained_model(tmp_path):
    generate(_tiny("llama-bf16-5gb"), tmp_path / "made")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32)
    weights = dict(model.named_parameters())
    assert weights["model.norm.weight"].mean().item() == pytest.approx(1, abs=0.02)
    matrices = [weight.flatten() for weight in weights.values() if weight.ndim == 2]
    assert torch.cat(matrices).std().item() == pytest.approx(0.02, rel=0.02)
    starts = {tuple(weight.flatten()[:8].tolist()) for weight in weights.values()}
    assert len(starts) == len(weights), "two tensors are equal"


def test_two_runs_write_the_same_bytes(tmp_path):
    for folder in ("first", "second"):
        generate(_tiny("moe-1.3gb"), tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "second").iterdir())
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_sizes_are_read():
    assert [parse_size(text) for text in ("2GiB", "1.5 GB", "700m", "4096")] == [
        2**31,
        1_500_000_000,
        700_000_000,
        4096,
    ]
    with pytest.raises(ValueError, match="not a size"):
        parse_size("two")
