"""Decoders with a cache: one graph for prefill, chunks and steps.

Judged by this file's own code against a model that transformers loads anew and that keeps its own
cache, at lengths that no step of the conversion uses.

`make test` has one of each cache and mask; kinds that differ from those in positions or layers alone are for the sweep.
"""

from __future__ import annotations

import inspect

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from onnxport import convert, verify
from onnxport.errors import VerificationError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.session import OnnxSession
from tests import tiny_tokenizers
from tests.sample import sampled
from tests.tiny_decoders import VOCABULARY, save_decoder

pytestmark = pytest.mark.integration

# One of each kind: grouped heads, learned positions, a sliding window shorter than the prompt, both kinds of
# layers, experts, latent attention, alibi, one key head, convolution states. benchmarks/ has the others.
KINDS = ("llama", "gpt2", "mistral", "gemma3_text", "qwen3_moe", "deepseek_v3", "bloom", "falcon", "lfm2")
KEPT = ("llama",)
TOKENIZED = {"tokenizer": "modernbert"}


def step(session, ids, mask, states):
    """One call of the graph; states None is before the first token."""
    rows, past = len(ids), mask.shape[1] - ids.shape[1]
    positions = np.maximum(mask.cumsum(1) - 1, 0)[:, past:]
    feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    for value in session.get_inputs():
        if value.name.startswith("past_"):
            shape = [rows, *(0 if isinstance(size, str) else size for size in value.shape[1:])]
            feed[value.name] = np.zeros(shape, np.float32) if states is None else states[value.name]
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    found = dict(zip(names, session.run(None, {k: v for k, v in feed.items() if k in wanted}), strict=True))
    logits = found.pop("logits")
    back = {n.replace("present.", "past_key_values.").replace("present_", "past_"): v for n, v in found.items()}
    return logits, back


@pytest.fixture(scope="module", params=sampled(KINDS, *KEPT))
def pair(request, converted):
    """(the source, a session of its graph, the conversion)"""
    tiny = converted(request.param, TOKENIZED)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny.source).eval()
    return model, onnxruntime.InferenceSession(tiny.folder / "onnx" / "model.onnx"), tiny.conversion


def test_prefill_chunks_and_steps_with_left_padding(pair):
    model, session, _ = pair
    rng = np.random.default_rng(7)
    ids = rng.integers(5, model.config.vocab_size, (4, 27))
    mask = np.ones_like(ids)
    for row, padding in enumerate((0, 1, 9, 16)):
        mask[row, :padding] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    takes = "position_ids" in inspect.signature(model.forward).parameters
    cache, states, past = None, None, 0
    for length in (19, 5, 1, 2):
        now, seen = ids[:, past : past + length], mask[:, : past + length]
        extra = {"position_ids": torch.from_numpy(positions[:, past : past + length])} if takes else {}
        with torch.no_grad():
            result = model(
                input_ids=torch.from_numpy(now), attention_mask=torch.from_numpy(seen), past_key_values=cache,
                use_cache=True, **extra,
            )  # fmt: skip
        cache = result.past_key_values
        logits, states = step(session, now, seen, states)
        real = mask[:, past : past + length] == 1  # what comes out of padding means nothing
        wanted = result.logits.numpy()
        assert logits.shape == wanted.shape
        assert np.abs(logits - wanted)[real].max() < 1e-4 * max(1.0, np.abs(wanted).max())
        past += length


def test_greedy_tokens(pair):
    model, session, _ = pair
    prompt = np.random.default_rng(3).integers(5, model.config.vocab_size, (2, 14))
    with torch.no_grad():
        wanted = model.generate(
            torch.from_numpy(prompt), attention_mask=torch.ones(2, 14, dtype=torch.int64),
            do_sample=False, max_new_tokens=24, min_new_tokens=24,
        )[:, 14:].numpy()  # fmt: skip
    ids, states, tokens = prompt, None, []
    for number in range(24):
        mask = np.ones((2, 14 + number), np.int64)
        logits, states = step(session, ids, mask, states)
        logits[:, :, model.config.eos_token_id] = -np.inf  # the end of text, which min_new_tokens forbids
        ids = logits[:, -1:].argmax(-1)
        tokens.append(ids)
    assert len(np.unique(wanted)) > 3  # else any graph would agree
    assert np.array_equal(np.concatenate(tokens, 1), wanted)


def test_axes_and_evidence(pair):
    model, _, conversion = pair
    (component,) = conversion.manifest.components
    assert conversion.manifest.task == "text-generation"
    axes = {spec.name: spec.axes for spec in (*component.inputs, *component.outputs)}
    assert axes["input_ids"] == ("batch_size", "sequence_length")
    assert axes["attention_mask"] == ("batch_size", "total_sequence_length")
    assert axes["logits"] == ("batch_size", "num_logits", model.config.vocab_size) and axes["num_logits_to_keep"] == ()
    for name in (n for n in axes if n.endswith(".key")):
        grown = name.startswith("present")
        assert axes[name][2] == ("past_sequence_length + sequence_length" if grown else "past_sequence_length")
    cases = {case.name: case for case in component.verification.cases}
    assert {"sequence length 1", "past sequence length 0", "padded rows, past sequence length 0"} <= cases.keys()
    kept = {case.sizes["num_logits"] for name, case in cases.items() if name.endswith("last logits")}
    assert kept == {1, 2}
    greedy = [case for name, case in cases.items() if "greedy" in name]
    assert len(greedy) >= 2 and all(case.ok and case.decision_agreement == 1.0 for case in greedy)


def test_a_state_that_is_lost_is_a_mismatch(converted, monkeypatch):
    """Of two layers one returns what it was given: single calls over given states cannot show that the

    tokens of a generation go wrong, the greedy tokens do."""
    from onnxport.runtime.cache import growing

    tiny, right = converted("llama", TOKENIZED), growing.present_name
    monkeypatch.setattr(growing, "present_name", lambda past: right(past).replace("present.1.", "present.0."))
    with pytest.raises(VerificationError, match="greedy tokens"):
        verify(tiny.folder, tiny.source)


@pytest.mark.sweep
def test_a_recurrence_that_begins_again_takes_one_token_a_call(tmp_path):
    """Mamba ignores its states in a call of several tokens; prompts and padded rows are right all the same."""
    # The tokenizer adds two tokens to a text, and a call takes one.
    source = save_decoder("mamba", tmp_path / "m", tokenizer=tiny_tokenizers.modernbert())
    conversion = convert(None, source, tmp_path / "out")
    (component,) = conversion.manifest.components
    assert conversion.passed
    assert [(r.axis, r.rule) for r in component.restrictions] == [("sequence_length", "fixed at 1")]
    assert component.inputs[0].axes == ("batch_size", 1)
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    ids = np.random.default_rng(1).integers(5, model.config.vocab_size, (3, 13))
    mask = (np.arange(13) >= np.array([[0], [4], [9]])).astype(np.int64)
    given = {"input_ids": torch.from_numpy(ids * mask), "attention_mask": torch.from_numpy(mask)}
    with torch.no_grad():
        wanted = model.generate(**given, do_sample=False, min_new_tokens=20, max_new_tokens=20, pad_token_id=0)[:, 13:]
    decoder = Decoder(OnnxSession(tmp_path / "out" / "onnx" / "model.onnx"))
    progress = decoder.start(3)
    logits = decoder.step(progress, given["input_ids"].numpy()[:, :7], mask[:, :7])
    logits = decoder.step(progress, given["input_ids"].numpy()[:, 7:], mask[:, 7:])
    found = []
    for _ in range(20):
        found.append(logits.argmax(-1))
        logits = decoder.step(progress, found[-1][:, None])
    assert np.stack(found, 1).tolist() == wanted.tolist()


@pytest.mark.sweep
@pytest.mark.parametrize("model_type", ["mamba2", "qwen3_5_text"])
def test_recurrences_take_any_number_of_tokens(tmp_path, model_type):
    """Also more than a chunk of the model (16, 64), after a state, and one by one."""
    conversion = convert(None, save_decoder(model_type, tmp_path / "m"), tmp_path / "out", require_dynamic=True)
    (component,) = conversion.manifest.components
    assert conversion.passed and component.operators["Scan"] == (2 if model_type == "mamba2" else 1)
    assert not any(r.axis == "sequence_length" and r.rule.startswith("fixed") for r in component.restrictions)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    ids = np.random.default_rng(1).integers(3, model.config.vocab_size, (2, 150))
    decoder = Decoder(OnnxSession(tmp_path / "out" / "onnx" / "model.onnx"))
    progress, mask = decoder.start(2), np.ones_like(ids)
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    for start, stop in ((0, 70), (70, 148), (148, 149), (149, 150)):
        logits = decoder.step(progress, ids[:, start:stop], mask[:, start:stop])
        np.testing.assert_allclose(logits, wanted[:, stop - 1], atol=2e-4 * np.abs(wanted).max())


def test_the_cache_goes_into_the_attention(converted):
    """No layer joins or repeats keys beside the operator."""
    graph = onnx.load(converted("llama", TOKENIZED).folder / "onnx" / "model.onnx").graph
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    assert [list(node.input[4:]) for node in attentions] == [
        [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"] for layer in range(2)
    ]
    assert [list(node.output[1:]) for node in attentions] == [
        [f"present.{layer}.key", f"present.{layer}.value"] for layer in range(2)
    ]
    producers = {name: node.op_type for node in graph.node for name in node.output}
    assert not any(
        producers[node.input[place]] in ("Concat", "Expand", "Reshape") for node in attentions for place in (1,)
    )
    # The table of positions is computed once, not in every layer.
    assert [node.op_type for node in graph.node].count("Cos") == 1


@pytest.mark.sweep
@pytest.mark.parametrize("opset", sampled([17, 18], 17))
def test_opsets_without_an_operator_for_attention(tmp_path, opset):
    conversion = convert(None, save_decoder("llama", tmp_path / "m"), tmp_path / "out", opset=opset)
    assert conversion.passed and "Attention" not in conversion.manifest.components[0].operators


@pytest.mark.sweep
def test_rotary_frequencies_that_change_with_the_length(tmp_path):
    # longrope caches the long frequencies in an attribute of the model at its first call, also at one on fake tensors.
    limit = 128
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 4.0, 8.0], "original_max_position_embeddings": limit,
    }  # fmt: skip
    source = save_decoder("phi3", tmp_path / "m", rope_parameters=rope, original_max_position_embeddings=limit)
    assert convert(None, source, tmp_path / "out").passed
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")
    for length in (limit - 3, limit + 3):  # short frequencies, long ones
        ids = np.random.default_rng(length).integers(3, VOCABULARY, (2, length))
        with torch.no_grad():
            wanted = model(torch.from_numpy(ids)).logits.numpy()
        found, _ = step(session, ids, np.ones_like(ids), None)
        assert np.abs(found - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max())
