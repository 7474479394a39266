"""The run time writes what transformers writes, without transformers."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers.generation import logits_process

from onnxport import convert, optimize, pipeline
from onnxport.errors import FolderError, UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.prefill import prefill
from onnxport.runtime.decoding.sampling import sample_tokens, warp_logits
from onnxport.runtime.decoding.settings import GenerationSettings, read_settings
from onnxport.runtime.generation import generate, generate_tokens
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import TextGenerator

pytestmark = pytest.mark.integration

PROMPTS = ["the river of stone", "seven", "Paris is a city by the water and the garden"]


@pytest.fixture(scope="module")
def folders(converted):
    """(source, converted)"""
    tiny = converted("llama", {"tokenizer": "modernbert"})
    return tiny.source, tiny.folder


@pytest.fixture(scope="module")
def writer(folders):
    return TextGenerator(folders[1])


@pytest.fixture(scope="module")
def fused_writer(folders, once):
    """The same model with fused attention, whose cache stays in place and has no padding."""

    def fuse(root):
        optimize(shutil.copytree(folders[1], root / "out"), for_="cpu")

    root, _ = once("llama-fused", fuse)
    return TextGenerator(root / "out", "model_fused")


def reference(source, prompts, **settings):
    """Texts by transformers' own generate; all rows at once, padded on the left."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    given = tokenizer(prompts, return_tensors="pt", padding=True)
    length = given["input_ids"].shape[1]
    with torch.no_grad():
        tokens = model.generate(
            given["input_ids"], attention_mask=given["attention_mask"], do_sample=False, **settings
        )[:, length:]
    return tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 30},
        {"max_new_tokens": 40, "repetition_penalty": 1.7},
        {"max_new_tokens": 9, "min_new_tokens": 9},
        {"max_new_tokens": 25, "num_beams": 3},
        {"max_new_tokens": 25, "num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
        {"max_new_tokens": 25, "num_beams": 3, "early_stopping": "never", "no_repeat_ngram_size": 2},
    ],
    ids=["greedy", "penalty", "minimum", "beams", "long beams", "exhaustive beams"],
)
def test_padded_batch_writes_what_transformers_writes(folders, writer, fused_writer, settings):
    wanted = reference(folders[0], PROMPTS, **settings)
    assert len(set(wanted)) == 3 and all(wanted)
    assert writer(PROMPTS, **settings) == wanted
    assert [writer(prompt, **settings) for prompt in PROMPTS] == wanted  # padding changes nothing
    assert fused_writer(PROMPTS, **settings) == wanted


RULES = {
    "runs": {"no_repeat_ngram_size": 2},
    "words": {"bad_words_ids": [[70], [80, 81]], "suppress_tokens": list(range(20, 60))},
    "ends": {"forced_eos_token_id": 9, "begin_suppress_tokens": [10, 11], "min_length": 20},
    "bias": {"sequence_bias": [[[77], 4.0], [[12, 13], -3.0]], "renormalize_logits": True},
    "decay": {"exponential_decay_length_penalty": (3, 1.5), "eos_token_id": [5, 6, 7, 90, 91]},
    "several": {
        "num_beams": 4,
        "num_return_sequences": 3,
        "eos_token_id": list(range(90, 120)),
        "length_penalty": -1.0,
    },
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_the_tokens_of_transformers(folders, writer, name):
    settings = {"max_new_tokens": 14, "pad_token_id": 3} | RULES[name]
    prompt = writer.encode(PROMPTS, GenerationSettings())
    model = transformers.AutoModelForCausalLM.from_pretrained(folders[0]).eval()
    given = {"input_ids": torch.from_numpy(prompt.ids), "attention_mask": torch.from_numpy(prompt.mask)}
    with torch.no_grad():
        wanted = model.generate(**given, **settings)[:, prompt.ids.shape[1] :]
    found = generate(writer.decoder, prompt, read_settings(folders[1], **settings))
    padded = np.full(wanted.shape, 3)
    for row, tokens in zip(padded, found, strict=True):
        row[: len(tokens)] = tokens
    assert np.array_equal(padded, wanted.numpy())


def test_rows_are_copied_only_when_their_order_changes(writer):
    prompt = writer.encode(PROMPTS, GenerationSettings())
    progress, _ = prefill(writer.decoder, prompt)
    before = dict(progress.states)
    writer.decoder.select(progress, np.arange(3))
    assert all(progress.states[name] is value for name, value in before.items())
    writer.decoder.select(progress, np.array([2, 0]))
    assert all(np.array_equal(progress.states[n].numpy(), v.numpy()[[2, 0]]) for n, v in before.items())


def test_a_graph_that_can_is_asked_for_the_last_logits_alone(writer):
    prompt = writer.encode(PROMPTS, GenerationSettings())
    asked = []

    class Watched:
        """Passes calls on, and notes what a call gave."""

        def __getattr__(self, name):
            return getattr(writer.decoder.session.raw, name)

        def run_with_ort_values(self, names, feed):
            values = writer.decoder.session.raw.run_with_ort_values(names, feed)
            asked.append((feed["num_logits_to_keep"].numpy().item(), values[names.index("logits")].shape()[1]))
            return values

    session = copy.copy(writer.decoder.session)
    session._session = Watched()
    prefill(Decoder(session), prompt)
    assert prompt.ids.shape[1] > 1 and asked == [(1, 1)]


def test_drawn_texts_of_one_prompt_differ_and_beams_can_be_drawn(writer):
    settings = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 12, "seed": 1}
    several = writer(PROMPTS[0], num_return_sequences=3, **settings)
    assert len(set(several)) == 3
    drawn = writer(PROMPTS[:2], num_beams=2, num_return_sequences=2, **settings)
    assert [len(texts) for texts in drawn] == [2, 2]
    assert drawn == writer(PROMPTS[:2], num_beams=2, num_return_sequences=2, **settings)


def test_max_length_counts_the_prompt(folders, writer):
    settings = read_settings(folders[1], max_length=20)
    prompt = writer.encode(PROMPTS[:1], settings)
    [row] = generate(writer.decoder, prompt, settings)
    assert len(row) == 20 - prompt.ids.shape[1]
    with pytest.raises(UsageError, match="leaves no room"):
        writer(PROMPTS[0], max_length=2)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m['role'] }}>{% generation %}{{ m['content'] | trim }}{% endgeneration %}\n{% endfor %}"
    "{% set ns = namespace(x=1) %}{{ dict(a=ns.x) | tojson }}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_chat_template_gives_the_prompt_of_transformers(folders, tmp_path):
    out = shutil.copytree(folders[1], tmp_path / "out")
    with pytest.raises(FolderError, match="no chat template"):
        TextGenerator(out).chat([{"role": "user", "content": "a"}])
    (out / "chat_template.jinja").write_text(TEMPLATE)
    messages = [{"role": "system", "content": "Short <answers>. "}, {"role": "user", "content": "the river"}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    talker = TextGenerator(out)
    assert talker.prompt_of(messages) == wanted
    ids = tokenizer(wanted, return_tensors="pt", add_special_tokens=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(folders[0]).eval()
    tokens = model.generate(**ids, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
    answer = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert talker.chat(messages, max_new_tokens=12) == answer == "".join(talker.stream(messages, max_new_tokens=12))
    with pytest.raises(UsageError, match="no tools"):
        talker.chat([{"role": "tool", "content": "a"}])


def test_an_end_of_text_ends_a_row_and_not_the_others(folders, writer):
    first = next(
        iter(generate_tokens(writer.decoder, writer.encode(PROMPTS, GenerationSettings()), GenerationSettings()))
    )
    assert first[1] != first[0]
    ends = int(first[1])  # what the second row says first
    rows = list(
        generate_tokens(
            writer.decoder, writer.encode(PROMPTS, GenerationSettings()),
            GenerationSettings(max_new_tokens=5, eos_token_id=(ends,), pad_token_id=3),
        )
    )  # fmt: skip
    assert [int(step[1]) for step in rows] == [ends, 3, 3, 3, 3]
    assert writer(PROMPTS[1], eos_token_id=ends, max_new_tokens=5) == writer.texts.decode([ends])


def test_the_pieces_of_a_stream_are_the_text(writer):
    whole = writer(PROMPTS[0], max_new_tokens=40)
    pieces = list(writer.stream(PROMPTS[0], max_new_tokens=40))
    assert "".join(pieces) == whole and len(pieces) > 10


def test_a_prompt_in_chunks(writer):
    settings = GenerationSettings(max_new_tokens=12)
    encoded = writer.encode(PROMPTS, settings)
    whole = np.stack(list(generate_tokens(writer.decoder, encoded, settings)))
    for chunk in (1, 3):
        assert np.array_equal(np.stack(list(generate_tokens(writer.decoder, encoded, settings, chunk))), whole)


def test_a_stop_string_ends_the_text(writer):
    whole = writer(PROMPTS[0], max_new_tokens=30)
    stop = whole[6:8]
    found = writer(PROMPTS[0], max_new_tokens=30, stop_strings=stop)
    assert whole.startswith(found) and stop in found and len(found) < len(whole)
    assert "".join(writer.stream(PROMPTS[0], max_new_tokens=30, stop_strings=stop)) == found


WARPERS = {
    "temperature": ({"temperature": 0.6}, lambda: [logits_process.TemperatureLogitsWarper(0.6)]),
    "top_k": ({"top_k": 7}, lambda: [logits_process.TopKLogitsWarper(7)]),
    "top_p": ({"top_p": 0.8}, lambda: [logits_process.TopPLogitsWarper(0.8)]),
    "min_p": ({"min_p": 0.1}, lambda: [logits_process.MinPLogitsWarper(0.1)]),
    "typical_p": ({"typical_p": 0.7}, lambda: [logits_process.TypicalLogitsWarper(0.7)]),
    "epsilon": ({"epsilon_cutoff": 0.02}, lambda: [logits_process.EpsilonLogitsWarper(0.02)]),
    "eta": ({"eta_cutoff": 0.05}, lambda: [logits_process.EtaLogitsWarper(0.05)]),
    "beams": (
        {"top_k": 1, "top_p": 0.01, "num_beams": 2},
        lambda: [logits_process.TopKLogitsWarper(1, min_tokens_to_keep=2),
                 logits_process.TopPLogitsWarper(0.01, min_tokens_to_keep=2)],
    ),
    "all": (
        {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        lambda: [
            logits_process.TemperatureLogitsWarper(1.5), logits_process.TopKLogitsWarper(20),
            logits_process.TopPLogitsWarper(0.9), logits_process.MinPLogitsWarper(0.02),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WARPERS)
@pytest.mark.parametrize("seed", range(5))
def test_the_draw_is_over_the_tokens_that_transformers_keeps(name, seed):
    settings, warpers = WARPERS[name]
    scores = (np.random.default_rng(seed).standard_normal((4, 50)) * 3).astype(np.float32)
    wanted = torch.from_numpy(scores.copy())
    for warper in warpers():
        wanted = warper(torch.zeros(4, 1, dtype=torch.int64), wanted)
    found = warp_logits(scores, GenerationSettings(do_sample=True, **settings))
    assert np.array_equal(np.isinf(found), np.isinf(wanted.numpy()))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)


def test_draws_follow_the_distribution_and_the_seed():
    logits = np.log(np.array([[0.5, 0.3, 0.2, 1e-9]], np.float32)).repeat(4000, 0)
    settings = GenerationSettings(do_sample=True, top_k=3)
    scores = warp_logits(logits, settings)
    drawn = sample_tokens(scores, settings, np.random.default_rng(1))
    share = np.bincount(drawn, minlength=4) / 4000
    assert share[3] == 0 and np.abs(share[:3] - [0.5, 0.3, 0.2]).max() < 0.03
    assert np.array_equal(drawn, sample_tokens(scores, settings, np.random.default_rng(1)))


def test_a_seed_gives_the_same_text_and_another_gives_another(writer):
    settings = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 20}
    assert writer(PROMPTS[0], seed=1, **settings) == writer(PROMPTS[0], seed=1, **settings)
    assert writer(PROMPTS[0], seed=1, **settings) != writer(PROMPTS[0], seed=2, **settings)


def test_the_pipeline_of_a_converted_folder(folders, writer):
    nlp = pipeline("text-generation", model=str(folders[1]))
    new = writer(PROMPTS[0], max_new_tokens=5)
    assert nlp(PROMPTS[0], max_new_tokens=5) == [{"generated_text": PROMPTS[0] + new}]
    assert nlp([PROMPTS[0]], max_new_tokens=5, return_full_text=False) == [[{"generated_text": new}]]


def test_the_command_needs_no_framework(folders, writer):
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, onnx=None)\n"
        f"sys.argv = ['onnxport', 'run', {str(folders[1])!r}, {PROMPTS[0]!r}, '--json']\n"
        "from onnxport.__main__ import program; program()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["results"][0]
    assert result == {"input": PROMPTS[0], "output": [{"generated_text": writer(PROMPTS[0])}]}


def test_errors_say_what_to_do(folders, writer, tmp_path):
    for settings, words in (
        ({"guidance_scale": 4}, "does not support guidance_scale"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs as many beams"),
        ({"temprature": 1.0}, "no setting 'temprature'"),
        ({"temperature": 0.0}, "temperature=0.0 is out of range"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ):
        with pytest.raises(UsageError, match=words):
            writer("a", **settings)
    bare = shutil.copytree(folders[1], tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(FolderError, match=r"no tokenizer\.json"):
        TextGenerator(bare)


def test_settings_of_the_checkpoint_hold(folders, tmp_path):
    source, _ = folders
    copied = tmp_path / "m"
    copied.mkdir()
    for file in source.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    said = json.loads((copied / "generation_config.json").read_text())
    (copied / "generation_config.json").write_text(json.dumps(said | {"max_new_tokens": 4, "repetition_penalty": 1.7}))
    convert(None, copied, tmp_path / "out")
    settings = {"max_new_tokens": 4, "repetition_penalty": 1.7}
    assert TextGenerator(tmp_path / "out")(PROMPTS) == reference(source, PROMPTS, **settings)
    guided = json.loads((tmp_path / "out" / "generation_config.json").read_text()) | {"guidance_scale": 3.0}
    (tmp_path / "out" / "generation_config.json").write_text(json.dumps(guided))
    with pytest.raises(UsageError, match=r"guidance_scale=3\.0"):
        TextGenerator(tmp_path / "out")("a")
    assert TextGenerator(tmp_path / "out")("a", guidance_scale=None)


def test_a_graph_without_states_is_refused(converted):
    with pytest.raises(FolderError, match="cannot generate text"):
        Decoder(OnnxSession(converted("bert-fill-mask").folder))
