"""The run time writes what transformers writes, without transformers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers.generation import logits_process

from onnxport import convert, pipeline
from onnxport.errors import FolderError, UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.drawing import chosen_tokens, drawn_from
from onnxport.runtime.generation import generate_tokens
from onnxport.runtime.generation_settings import GenerationSettings
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import TextGenerator
from tests import tiny_tokenizers
from tests.tiny_decoders import save_decoder

pytestmark = pytest.mark.integration

PROMPTS = ["the river of stone", "seven", "Paris is a city by the water and the garden"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(source, converted)"""
    root = tmp_path_factory.mktemp("writer")
    source = save_decoder("llama", root / "m", tokenizer=tiny_tokenizers.modernbert())
    convert(None, source, root / "out")
    return source, root / "out"


@pytest.fixture(scope="module")
def writer(folders):
    return TextGenerator(folders[1])


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
    ],
    ids=["greedy", "penalty", "minimum"],
)
def test_padded_batch_writes_what_transformers_writes(folders, writer, settings):
    wanted = reference(folders[0], PROMPTS, **settings)
    assert len(set(wanted)) == 3 and all(wanted)
    assert writer(PROMPTS, **settings) == wanted
    assert [writer(prompt, **settings) for prompt in PROMPTS] == wanted  # padding changes nothing


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
    found = drawn_from(scores, GenerationSettings(do_sample=True, **settings))
    assert np.array_equal(np.isinf(found), np.isinf(wanted.numpy()))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)


def test_draws_follow_the_distribution_and_the_seed():
    logits = np.log(np.array([[0.5, 0.3, 0.2, 1e-9]], np.float32)).repeat(4000, 0)
    settings = GenerationSettings(do_sample=True, top_k=3)
    scores = drawn_from(logits, settings)
    drawn = chosen_tokens(scores, settings, np.random.default_rng(1))
    share = np.bincount(drawn, minlength=4) / 4000
    assert share[3] == 0 and np.abs(share[:3] - [0.5, 0.3, 0.2]).max() < 0.03
    assert np.array_equal(drawn, chosen_tokens(scores, settings, np.random.default_rng(1)))


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
        ({"guidance_scale": 4}, "does not do guidance_scale"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 is more than there are"),
        ({"temprature": 1.0}, "no setting 'temprature'"),
        ({"temperature": 0.0}, "temperature=0.0 is out of range"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ):
        with pytest.raises(UsageError, match=words):
            writer("a", **settings)
    bare = save_decoder("gpt2", tmp_path / "m")
    convert(None, bare, tmp_path / "out")
    with pytest.raises(FolderError, match=r"no tokenizer\.json"):
        TextGenerator(tmp_path / "out")


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


def test_a_graph_without_states_is_refused(tmp_path):
    from tests.tiny import save

    convert(None, save("bert-fill-mask", tmp_path / "m"), tmp_path / "out", pipeline_name="fill-mask")
    with pytest.raises(FolderError, match="does not generate"):
        Decoder(OnnxSession(tmp_path / "out"))
