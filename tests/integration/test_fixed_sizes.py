"""Graphs in which every axis is a number, judged against transformers and against the graphs that take any size.

Third parties feed them as the documents say: what comes out as present is the next past, a prompt is padded on the
left to whole calls, and a mask hides unused places.

`make test` has rotation, a window, and positions from the mask. The sweep has the kinds that put these together in
other ways, and experts, whose shapes follow from numbers.
"""

from __future__ import annotations

import inspect
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from onnxport import convert, optimize, quantize, verify
from onnxport.errors import UsageError, VerificationError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import TextGenerator
from onnxport.targets.genai_config import require_decoder
from onnxport.variants.static_shapes.write import fix_sizes
from tests import tiny_tokenizers
from tests.files import files_of
from tests.sample import sampled
from tests.tiny_decoders import save_decoder
from tests.unit.cli_runner import run

pytestmark = pytest.mark.integration

# Rotation; a window narrower than the cache; alibi; positions from the mask; learned positions; experts; both kinds
# of layers; a compressed cache.
KINDS = ("llama", "mistral", "bloom", "opt", "gpt2", "qwen3_moe", "gemma2", "deepseek_v3")
ROWS, NEW, PAST = 2, 3, 29
SIZES = {"batch_size": ROWS, "sequence_length": NEW, "past_sequence_length": PAST}
PROMPTS = ["the river of stone", "seven"]
DATA_DEPENDENT = {"qwen3_moe", "deepseek_v3"}  # which expert takes how many tokens


@pytest.fixture(scope="module", params=sampled(KINDS, "mistral"))
def decoder(request, converted, tmp_path_factory):
    """(the kind, the source's folder, the converted folder with the fixed graph)"""
    tiny = converted(request.param, {"tokenizer": "modernbert"})
    folder = tiny.copy(tmp_path_factory.mktemp(request.param) / "out")
    assert optimize(folder, sizes=SIZES) == folder / "onnx" / "model_fixed.onnx"
    return request.param, tiny.source, folder


@pytest.fixture(scope="module")
def llama(converted):
    """The converted folder, without a fixed graph."""
    return converted("llama", {"tokenizer": "modernbert"}).folder


@pytest.fixture
def copy(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "out")


def component_of(folder, name="model_fixed"):
    manifest = json.loads((folder / "onnxport.json").read_text())
    return next(c for c in manifest["components"] if c["name"] == name)


def dims(value):
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def test_every_axis_is_a_number_and_no_operator_asks_for_a_size(decoder):
    kind, _, folder = decoder
    graph = onnx.load(folder / "onnx" / "model_fixed.onnx", load_external_data=False).graph
    shapes = {value.name: dims(value) for value in (*graph.input, *graph.output)}
    assert all(all(size > 0 for size in shape) for shape in shapes.values()), shapes
    assert shapes["attention_mask"] == [ROWS, PAST + NEW]
    assert shapes["logits"][:2] == [ROWS, NEW]
    pasts = [name for name in shapes if name.startswith("past_")]
    assert pasts and all(shapes[name] == shapes[name.replace("past_key_values", "present")] for name in pasts)
    assert {shapes[name][2] for name in pasts} == {PAST}
    operators = {node.op_type for node in graph.node}
    assert not operators & {"Shape", "Size"}
    assert ("Range" in operators) == (kind in DATA_DEPENDENT)
    assert "num_logits_to_keep" not in shapes
    unsettled = [r for r in component_of(folder)["restrictions"] if r["axis"] == "tensors inside"]
    assert bool(unsettled) == (kind in DATA_DEPENDENT)
    known = {value.name for value in graph.value_info} | shapes.keys()
    unknown = [o for node in graph.node for o in node.output if o and o not in known]
    assert kind in DATA_DEPENDENT or not unknown


def test_present_is_the_next_past_and_the_logits_are_those_of_transformers(decoder):
    _, source, folder = decoder
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    session = onnxruntime.InferenceSession(folder / "onnx" / "model_fixed.onnx")
    rng = np.random.default_rng(11)
    ids = rng.integers(5, model.config.vocab_size, (ROWS, 27))
    real = np.ones_like(ids)
    real[1, :5] = 0  # the first call is padding alone for this row, and the second begins with it
    positions = np.maximum(real.cumsum(1) - 1, 0)
    takes = "position_ids" in inspect.signature(model.forward).parameters
    extra = {"position_ids": torch.from_numpy(positions)} if takes else {}
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(real), **extra).logits.numpy()
    names = {value.name: value for value in session.get_inputs()}
    # Numbers in unused places are hidden, whatever they are.
    states = {
        name: rng.standard_normal(value.shape).astype(np.float32)
        for name, value in names.items()
        if name.startswith("past_")
    }
    for start in range(0, ids.shape[1], NEW):
        end = start + NEW
        mask = np.zeros((ROWS, PAST + NEW), np.int64)
        mask[:, PAST - start :] = real[:, :end]
        feed = {"input_ids": ids[:, start:end], "attention_mask": mask, "position_ids": positions[:, start:end]}
        found = dict(
            zip(
                [value.name for value in session.get_outputs()],
                session.run(None, {n: v for n, v in feed.items() if n in names} | states),
                strict=True,
            )
        )
        states = {name: found[name.replace("past_key_values", "present")] for name in states}
        seen = real[:, start:end] == 1
        error = np.abs(found["logits"] - wanted[:, start:end])[seen]
        assert error.size == 0 or error.max() < 1e-4 * max(1, np.abs(wanted).max())


def test_texts_are_those_of_the_graph_that_takes_any_size(decoder):
    _, _, folder = decoder
    portable, other = TextGenerator(folder), TextGenerator(folder, component="model_fixed")
    room = PAST + NEW + 1
    for prompts in (PROMPTS, PROMPTS[:1], PROMPTS[1:]):
        length = other.encode(prompts, portable_settings(folder)).ids.shape[1]
        wanted = portable(prompts, max_new_tokens=room - length)  # up to the last token in view
        assert other(prompts, max_new_tokens=room - length) == wanted
    one = {"max_new_tokens": 9}
    assert other(PROMPTS[0], num_beams=2, **one) == portable(PROMPTS[0], num_beams=2, **one)
    assert other(PROMPTS[1], do_sample=True, seed=3, num_return_sequences=2, **one) == portable(
        PROMPTS[1], do_sample=True, seed=3, num_return_sequences=2, **one
    )
    assert "".join(other.stream(PROMPTS[1], **one)) == portable(PROMPTS[1], **one)


def portable_settings(folder):
    from onnxport.runtime.decoding.settings import read_settings

    return read_settings(folder)


def test_steps_of_any_number_of_tokens(decoder):
    _, _, folder = decoder
    rng = np.random.default_rng(5)
    for lengths in ((1, 1, 5, 2, 7, 3, 1, 9), (4,) * 7, (20, 11, 1), (32,), (29, 1, 1, 1), (30, 2)):
        decoders = [Decoder(OnnxSession(folder, name)) for name in ("model", "model_fixed")]
        ids = rng.integers(5, 60, (ROWS, sum(lengths)))
        progress = [one.start(ROWS) for one in decoders]
        for end in np.cumsum(lengths):
            now = slice(progress[0].mask.shape[1], end)
            found = [one.step(state, ids[:, now]) for one, state in zip(decoders, progress, strict=True)]
            assert np.abs(found[0] - found[1]).max() < 1e-4 * max(1, np.abs(found[0]).max())


def test_the_record_and_verify(decoder):
    _, source, folder = decoder
    record = component_of(folder)
    names = [case["name"] for case in record["verification"]["cases"]]
    assert record["verification"]["passed"] and record["verification"]["source"] == "the graph model.onnx"
    assert {"3 tokens over 0 of 29 places", "2 tokens over 14 of 29 places, padded rows"} <= set(names)
    assert {"1 tokens over 29 of 29 places", "29 greedy tokens, 2 rows, prompt of 4 in parts of 2"} <= set(names)
    rules = {(limit["axis"], limit["rule"]) for limit in record["restrictions"]}
    assert {("batch_size", "fixed at 2"), ("past_sequence_length", "fixed at 29")} <= rules
    assert ("total_sequence_length", "fixed at 32") in rules
    assert all(isinstance(size, int) for spec in (*record["inputs"], *record["outputs"]) for size in spec["axes"])
    found = verify(folder, against=source)
    assert found.ok and found.verifications["model_fixed"].passed
    assert "--component model_fixed" in (folder / "README.md").read_text()


def test_what_the_window_cannot_hold_is_refused(decoder):
    _, _, folder = decoder
    writer = TextGenerator(folder, component="model_fixed")
    with pytest.raises(UsageError, match="sees 32 at most") as caught:
        writer(PROMPTS[0], max_new_tokens=40)
    command = "onnxport optimize FOLDER --sizes batch_size=2,past_sequence_length="
    assert command in str(caught.value.hint) and "'model'" in str(caught.value.hint)
    with pytest.raises(UsageError, match="sees 32 at most"):
        writer("the river of stone " * 9, max_new_tokens=1)
    with pytest.raises(UsageError, match=r"3 rows .* fixed at 2") as caught:
        writer([*PROMPTS, "Paris"], max_new_tokens=2)
    assert "batch_size=3" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"4 rows .* fixed at 2"):
        writer(PROMPTS, num_beams=2, max_new_tokens=2)
    progress = writer.decoder.start(1)
    writer.decoder.step(progress, np.full((1, 30), 7))
    writer.decoder.step(progress, np.full((1, 2), 8))
    with pytest.raises(UsageError, match="33 tokens"):
        writer.decoder.step(progress, np.full((1, 1), 9))
    # Where nothing is said, the answer ends with the window.
    ids = writer.encode(PROMPTS[:1], portable_settings(folder)).ids
    assert ids.shape[1] < 33 and isinstance(writer(PROMPTS[0]), str)


def test_states_of_a_fixed_size(converted, tmp_path):
    """A convolution's state does not allow that a call is filled up; one token a call is right."""
    converted("lfm2", {"tokenizer": "modernbert"}).copy(tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(VerificationError, match="present_conv") as caught:
        optimize(tmp_path / "out", sizes=SIZES)
    assert "sequence_length=1`" in str(caught.value.hint) and files_of(tmp_path / "out") == before
    optimize(tmp_path / "out", sizes=SIZES | {"sequence_length": 1})
    texts = [TextGenerator(tmp_path / "out", name)(PROMPTS, max_new_tokens=12) for name in ("model", "model_fixed")]
    assert texts[0] == texts[1] and len(set(texts[0])) == 2


def test_again_with_other_sizes_replaces_it_and_others_leave_it_alone(copy, capsys):
    optimize(copy, sizes=SIZES)
    optimize(copy, sizes={"batch_size": 1, "sequence_length": 1, "past_sequence_length": 15})
    assert component_of(copy)["inputs"][0]["axes"] == [1, 1]
    quantize(copy, "int8-weights")
    optimize(copy)
    names = [c["name"] for c in json.loads((copy / "onnxport.json").read_text())["components"]]
    assert sorted(names) == ["model", "model_fixed", "model_int8", "model_optimized"]
    assert verify(copy).ok
    shown = run(capsys, "inspect", copy, "--json")
    assert shown.code == 0 and "a static cache, padded on the left" in shown.out and "fixed at 15" in shown.out
    from onnxport.artifact.folder import read_folder

    manifest = read_folder(copy)
    with pytest.raises(UsageError, match="its cache has a static shape"):
        require_decoder(manifest, next(c for c in manifest.components if c.name == "model_fixed"))


@pytest.mark.sweep
def test_weights_are_stored_once(tmp_path):
    source = save_decoder("llama", tmp_path / "m", hidden_size=64, tokenizer=tiny_tokenizers.modernbert())
    convert(None, source, tmp_path / "out", use_external_format=True)
    before = (tmp_path / "out" / "onnx" / "model.onnx_data").read_bytes()
    file = optimize(tmp_path / "out", sizes=SIZES)
    onnx_files = {path.name for path in file.parent.iterdir()}
    assert onnx_files == {"model.onnx", "model.onnx_data", "model.weights.json", "model_fixed.onnx"}
    assert (file.parent / "model.onnx_data").read_bytes() == before
    assert file.stat().st_size < 2 * (file.parent / "model.onnx").stat().st_size
    graph = onnx.load(file, load_external_data=False).graph
    places = {e.value for t in graph.initializer for e in t.external_data if e.key == "location"}
    assert places == {"model.onnx_data"}
    record = component_of(tmp_path / "out")
    assert record["data_files"] == ["onnx/model.onnx_data"] and record["size_bytes"] == file.stat().st_size
    shutil.move(tmp_path / "out", tmp_path / "moved")
    texts = [TextGenerator(tmp_path / "moved", name)(PROMPTS, max_new_tokens=8) for name in ("model", "model_fixed")]
    assert texts[0] == texts[1]


def test_the_command(copy, capsys):
    done = run(capsys, "optimize", copy, "--sizes", "batch_size=1, sequence_length=1,past_sequence_length=31")
    assert done.code == 0 and done.out.strip() == str(copy / "onnx" / "model_fixed.onnx")
    texts = [
        run(capsys, "run", copy, PROMPTS[0], "--set", "max_new_tokens=9", "--component", name).out
        for name in ("model", "model_fixed")
    ]
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize(
    ("sizes", "message", "hint"),
    [
        ("batch_size", "'batch_size' is not AXIS=NUMBER", "--sizes batch_size=1"),
        ("batch_size=1,batch_size=2", "two sizes", "--sizes"),
        ("batch_size=-1", "is not AXIS=NUMBER", "--sizes"),
        ("batch_size=0,sequence_length=1,past_sequence_length=7", "a whole number from 1", "past_sequence_length=512"),
        ("batch=1,sequence_length=1", "no axis 'batch'. The axes are batch_size, sequence_length", "'batch_size'"),
        ("batch_size=1", "sequence_length, past_sequence_length", "batch_size=1,sequence_length=1,past_sequence_l"),
        ("decoder.batch_size=1", "no graph 'decoder'", "model"),
        ("num_logits=1", "logits of all tokens", "--sizes"),
        ("batch_size=1,sequence_length=2,past_sequence_length=7,total_sequence_length=7", "= 9", "Leave total"),
        ("batch_size=1,sequence_length=8,past_sequence_length=7", "too small for the 8 tokens", "=8 or more"),
    ],
)
def test_what_cannot_be_fixed_is_an_error(llama, capsys, sizes, message, hint):
    before = files_of(llama)
    done = run(capsys, "optimize", llama, "--sizes", sizes)
    assert done.code == 2 and files_of(llama) == before
    assert message in done.err and hint in done.err and "othing was written" in done.err


def test_sizes_and_a_processor_are_two_calls(llama, capsys):
    done = run(capsys, "optimize", llama, "--sizes", "batch_size=1", "--for", "cpu")
    assert done.code == 2 and "not both" in done.err
    with pytest.raises(UsageError, match="single graph"):
        fix_sizes(llama / "onnx" / "model.onnx", {"batch_size": 1})
    with pytest.raises(UsageError, match="--sizes is empty") as caught:
        fix_sizes(llama, {})
    assert "sequence_length=1" in str(caught.value.hint)


@pytest.mark.sweep
def test_more_places_than_the_model_has_positions(tmp_path):
    source = save_decoder("gpt2", tmp_path / "m", n_positions=100, max_position_embeddings=100)
    convert(None, source, tmp_path / "out")
    with pytest.raises(VerificationError, match="does not run") as caught:
        optimize(tmp_path / "out", sizes=SIZES | {"past_sequence_length": 120})
    assert "no more positions" in str(caught.value.hint)
