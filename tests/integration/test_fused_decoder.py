"""Decoders fused for the CPU, judged against transformers with a cache of its own.

The fused graph may be given what the portable one is given: rows padded on the left, prompts in parts,
steps; and it is given its own cache back, or keeps it in place.

`make test` has one without a window and one with it, whose neighbours are pairs. Capped scores (Gemma 2) and a rotation
of a part of the features (GPT-NeoX) are for the sweep.
"""

from __future__ import annotations

import inspect
import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from onnxport import optimize, verify
from onnxport.errors import ExportError, UsageError, VerificationError
from onnxport.graph.fusion import group_query_attention
from onnxport.graph.fusion.mask_pattern import MaskPattern
from onnxport.runtime.cache.packed_rows import read_packed_rows
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.session import OnnxSession
from tests.files import files_of
from tests.integration.test_decoders import step
from tests.sample import sampled
from tests.tiny_decoders import VOCABULARY, WINDOW

pytestmark = pytest.mark.integration

# Wide heads, because the operator rotates no others. Biases; capped scores and both kinds of layers; neighbours as
# pairs, and layers without positions; a rotation of a part of the features.
KINDS = {
    "qwen2": {"hidden_size": 64},
    "gemma2": {"hidden_size": 64, "head_dim": 16},
    "cohere2": {"hidden_size": 64},
    "gpt_neox": {"hidden_size": 256},
}
OPERATORS = {  # of the two layers: (windows, capped, rotating, neighbours)
    "qwen2": ([-1, -1], 0, [1, 1], 0),
    "gemma2": ([WINDOW, -1], 50, [1, 1], 0),
    "cohere2": ([WINDOW, -1], 0, [1, 0], 1),
    "gpt_neox": ([-1, -1], 0, [1, 1], 0),
}


@pytest.fixture(scope="module", params=sampled(KINDS, "qwen2"))
def fused(request, converted, tmp_path_factory):
    """(the kind, the source's folder, the converted folder with the fused graph)"""
    tiny = converted(request.param, KINDS[request.param])
    folder = tiny.copy(tmp_path_factory.mktemp(request.param) / "out")
    assert optimize(folder, for_="cpu") == folder / "onnx" / "model_fused.onnx"
    return request.param, tiny.source, folder


def calls(model, ids, mask, lengths):
    """(tokens, mask up to them, the source's logits) of each call."""
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    takes = "position_ids" in inspect.signature(model.forward).parameters
    cache, past = None, 0
    for length in lengths:
        now, seen = ids[:, past : past + length], mask[:, : past + length]
        extra = {"position_ids": torch.from_numpy(positions[:, past : past + length])} if takes else {}
        with torch.no_grad():
            result = model(
                input_ids=torch.from_numpy(now), attention_mask=torch.from_numpy(seen), past_key_values=cache,
                use_cache=True, **extra,
            )  # fmt: skip
        cache, past = result.past_key_values, past + length
        yield now, seen, result.logits.numpy()


def rows_of_different_length():
    """The first call has nothing but padding for the last row."""
    ids = np.random.default_rng(7).integers(3, VOCABULARY, (4, 29))
    mask = np.ones_like(ids)
    for row, padding in enumerate((0, 1, 9, 20)):
        mask[row, :padding] = 0
    return ids, mask, (19, 5, 1, 1, 3)


def agree(found, wanted, real):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted)[real].max() < 1e-4 * max(1.0, np.abs(wanted).max())


def test_prompts_parts_and_steps_of_padded_rows(fused):
    _, source, folder = fused
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    session = onnxruntime.InferenceSession(folder / "onnx" / "model_fused.onnx")
    ids, mask, lengths = rows_of_different_length()
    states = None
    for now, seen, wanted in calls(model, ids, mask, lengths):
        logits, states = step(session, now, seen, states)
        agree(logits, wanted, seen[:, -now.shape[1] :] == 1)
        # The next row's length is not this one's: each has its own tokens first, then nothing.
        longest = next(iter(states.values()))
        assert longest.shape[2] == seen.shape[1]


def test_the_cache_that_stays_in_place_and_grows(fused, monkeypatch):
    from onnxport.runtime.cache import in_place

    monkeypatch.setattr(in_place, "_SMALLEST_BUFFER", 4)
    _, source, folder = fused
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    decoder = Decoder(OnnxSession(folder, "model_fused"))
    ids, mask, _ = rows_of_different_length()
    lengths = (3, 1, 15, 5, 1, 1, 3)
    progress = decoder.start(len(ids))
    buffers = []
    for now, seen, wanted in calls(model, ids, mask, lengths):
        found = decoder.step(progress, now, seen[:, -now.shape[1] :])
        real = seen[:, -1] == 1
        agree(found, wanted[:, -1], real)
        value = next(iter(progress.states.values()))
        buffers.append((value.shape()[2], value.data_ptr()))
    assert [size for size, _ in buffers] == [4] * 2 + [32] * 5
    assert len({pointer for _, pointer in buffers}) == 2


def test_what_is_in_the_graph(fused):
    import onnx

    kind, _, folder = fused
    graph = onnx.load(folder / "onnx" / "model_fused.onnx").graph
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    found = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in attentions]
    windows, capped, rotating, neighbours = OPERATORS[kind]
    assert [a["local_window_size"] for a in found] == windows
    assert [a.get("softcap", 0) for a in found] == [capped, capped]
    assert [a.get("do_rotary", 0) for a in found] == rotating
    assert max(a.get("rotary_interleaved", 0) for a in found) == neighbours
    assert not [
        node.op_type for node in graph.node if node.op_type in ("Attention", "Softmax", "Cos", "RotaryEmbedding")
    ]
    assert "position_ids" not in [value.name for value in graph.input]
    if kind == "qwen2":  # one product each for queries, keys and values, for the result, up, gate and down
        assert [node.op_type for node in graph.node].count("MatMul") == 2 * 5 + 1
        weights = {tuple(tensor.dims) for tensor in graph.initializer}
        assert (64, 128) in weights and (64, 32) not in weights


def test_the_record_and_verify(fused):
    kind, source, folder = fused
    manifest = json.loads((folder / "onnxport.json").read_text())
    component = next(c for c in manifest["components"] if c["name"] == "model_fused")
    names = [case["name"] for case in component["verification"]["cases"]]
    assert component["verification"]["passed"] and "part of a prompt, 4 rows of 6 over 11, padded" in names
    assert sum("greedy" in name for name in names) == 2
    rules = {limit["rule"] for limit in component["restrictions"]}
    assert {"at most 256", "real tokens first"} <= rules
    assert ("padded on the left" in rules) == (WINDOW in OPERATORS[kind][0])
    assert verify(folder, against=source).ok


def test_what_the_graph_is_not_made_for_is_refused(fused):
    kind, _, folder = fused
    decoder = Decoder(OnnxSession(folder, "model_fused"))
    ids = np.full((2, 250), 5)
    progress = decoder.start(2)
    decoder.step(progress, ids)
    with pytest.raises(UsageError, match="at most 256"):
        decoder.step(progress, ids[:, :7])
    between = np.ones((2, 4), np.int64)
    between[0, 1] = 0
    progress = decoder.start(2)
    if WINDOW in OPERATORS[kind][0]:
        with pytest.raises(UsageError, match="sliding window"):
            decoder.step(progress, ids[:, :4], between)
    else:
        other = Decoder(OnnxSession(folder, "model"))
        agree(decoder.step(progress, ids[:, :4], between), other.step(other.start(2), ids[:, :4], between), [0, 1])


def test_wrong_numbers_are_found_and_nothing_is_written(fused, tmp_path, monkeypatch):
    kind, _, folder = fused
    if WINDOW not in OPERATORS[kind][0]:
        pytest.skip("it has no window to be wrong about")
    copy = shutil.copytree(folder, tmp_path / "out")
    before = files_of(copy)
    right = group_query_attention.find_mask_pattern

    def wider(*args, **kwargs):
        found = right(*args, **kwargs)
        return MaskPattern(found.window + 1) if found.window else found

    monkeypatch.setattr(group_query_attention, "find_mask_pattern", wider)
    with pytest.raises(VerificationError, match=r"differs from model\.onnx in the case"):
        optimize(copy, for_="cpu")
    assert files_of(copy) == before


def test_a_mask_of_another_meaning_is_refused(fused, tmp_path, monkeypatch):
    _, _, folder = fused
    copy = shutil.copytree(folder, tmp_path / "out")
    monkeypatch.setattr(group_query_attention, "find_mask_pattern", lambda *args, **kwargs: None)
    before = files_of(copy)
    with pytest.raises(ExportError, match="neither causal nor a sliding window"):
        optimize(copy, for_="cpu")
    assert files_of(copy) == before


def test_other_models_and_processors(converted, tmp_path):
    folder = converted("bert-text-classification").copy(tmp_path / "out")
    with pytest.raises(UsageError, match="not for 'tpu'"):
        optimize(folder, for_="tpu")
    with pytest.raises(UsageError, match="single graph"):
        optimize(folder / "onnx" / "model.onnx", for_="cpu")


@pytest.mark.sweep
def test_a_fused_graph_of_rounded_weights_writes_what_the_portable_one_writes(converted, tmp_path):
    from onnxport import quantize
    from onnxport.artifact.folder import read_folder
    from onnxport.runtime.text_generation import TextGenerator

    tiny = converted("llama", {"tokenizer": "modernbert", "hidden_size": 64})
    source = tiny.source
    tiny.copy(tmp_path / "out")
    optimize(tmp_path / "out", for_="cpu")
    file = quantize(tmp_path / "out", "int8-weights", float_activations=True)
    assert file.name == "model_fused_int8.onnx"
    components = {component.name: component for component in read_folder(tmp_path / "out").components}
    assert components["model_fused_int8"].verification.passed
    said = read_packed_rows(OnnxSession(file))
    assert said is not None and said == read_packed_rows(OnnxSession(file.with_name("model_fused.onnx")))
    assert components["model_fused_int8"].restrictions == components["model_fused"].restrictions
    assert verify(tmp_path / "out", against=source).verifications["model_fused_int8"].passed
    prompts = ["the river of stone", "seven", "Paris is a city by the water and the garden"]
    texts = [
        TextGenerator(tmp_path / "out", component=name)(prompts, max_new_tokens=24)
        for name in ("model_int8", "model_fused_int8")
    ]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3
