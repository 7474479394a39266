"""What a loaded model holds beside its weights must be what its class makes of its config."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import onnxport
from onnxport.errors import VerificationError
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.resolve import resolve_model
from onnxport.verification.configured_state import require_as_configured
from onnxport.verification.ledger.graph_weights import record_weights
from tests.tiny import TINY, save
from tests.tiny_decoders import DECODERS, save_decoder
from tests.tiny_encoder_decoders import TABLE, save_encoder_decoder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save("bert-fill-mask", tmp_path_factory.mktemp("bert") / "m")


def _set(path, name, value):
    def change(model):
        module = model.get_submodule(path)
        setattr(module, name, value(getattr(module, name)))

    return change


_EMBEDDINGS, _LAYER = "bert.embeddings", "bert.encoder.layer.1"
_FAULTS = {
    "eps": _set(f"{_LAYER}.output.LayerNorm", "eps", lambda eps: eps * 10),
    "heads": _set(f"{_LAYER}.attention.self", "num_attention_heads", lambda heads: heads // 2),
    "scaling": _set(f"{_LAYER}.attention.self", "scaling", lambda scale: scale * 1.001),
    "activation": _set(f"{_LAYER}.intermediate", "intermediate_act_fn", lambda _: nn.GELU("tanh")),
    "normalization": _set(_LAYER, "output", lambda part: part.LayerNorm),
    "positions": _set(_EMBEDDINGS, "position_ids", lambda ids: ids + (ids > 40)),
    "token types": _set(_EMBEDDINGS, "token_type_ids", lambda ids: ids + 1),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_what_differs_from_the_config_is_named(bert, fault):
    model = transformers.AutoModelForMaskedLM.from_pretrained(bert)
    model.eval()
    require_as_configured(model)
    _FAULTS[fault](model)
    with pytest.raises(VerificationError) as caught:
        require_as_configured(model)
    assert "BertForMaskedLM" in caught.value.message


def test_rotary_frequencies(tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(save_decoder("llama", tmp_path / "m")).eval()
    require_as_configured(model)
    model.model.rotary_emb.inv_freq[-1] *= 1.001
    with pytest.raises(VerificationError) as caught:
        require_as_configured(model)
    assert "model.rotary_emb.inv_freq[3]" in caught.value.message


def test_layers_with_files_of_their_own(tmp_path):
    """Layers of sentence-transformers after the transformer are in memory only."""
    to_export = load_model_to_export(resolve_model(save("sentence-bert-cls-dense", tmp_path / "m")))
    record_weights(to_export)
    (layer,) = (module for module in to_export.pipeline.model.modules() if type(module).__name__ == "Dense")
    with torch.no_grad():
        layer.linear.weight[1, 2] *= 1.01
    with pytest.raises(VerificationError) as caught:
        record_weights(to_export)
    assert "linear.weight" in caught.value.message and "Dense/model.safetensors" in caught.value.message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_precisions_are_sound(tmp_path, dtype):
    folder = save_decoder("llama", tmp_path / "m")
    require_as_configured(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval())


def test_a_conversion_is_refused(bert, monkeypatch, tmp_path):
    """Source and graph would have the same wrong epsilon, so that no comparison of outputs can find it."""
    real = transformers.BertForMaskedLM.from_pretrained.__func__

    def loaded(cls, *arguments, **settings):
        made = real(cls, *arguments, **settings)
        made[0].bert.embeddings.LayerNorm.eps = 1e-3
        return made

    monkeypatch.setattr(transformers.BertForMaskedLM, "from_pretrained", classmethod(loaded))
    with pytest.raises(VerificationError) as caught:
        onnxport.convert(None, bert, tmp_path / "out")
    assert "bert.embeddings.LayerNorm.eps" in caught.value.message
    assert "0.001" in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("make", "name"),
    [(make, name) for make, table in ((save, TINY), (save_decoder, DECODERS), (save_encoder_decoder, TABLE))
     for name in table],
)  # fmt: skip
def test_loaded_models_are_as_configured(tmp_path, make, name):
    record_weights(load_model_to_export(resolve_model(make(name, tmp_path / "m"), None)))
