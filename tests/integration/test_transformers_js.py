"""Folders for transformers.js: the new graphs against the old ones in ONNX Runtime, and in Node where it is there.

The tests in Node need transformers.js 4: `npm install @huggingface/transformers` in any folder, and
ONNXPORT_NODE_MODULES set to its node_modules.

TrOCR is for the sweep: its decoder keeps its cross-attention as that of T5 does, and `make graphs` records it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import numpy_helper

from onnxport import quantize, verify
from onnxport.cli.main import main
from onnxport.errors import ExportError, OutputError, UsageError, VerificationError
from onnxport.graph import cross_projection
from onnxport.runtime.sequence_generation import SequenceGenerator, TextToTextGenerator
from onnxport.runtime.session import OnnxSession
from onnxport.targets import find_target
from tests.sample import sampled
from tests.tiny_decoders import VOCABULARY

pytestmark = pytest.mark.integration

TOKENS, PAD, END = 14, 1, 2
TEXTS = ["the river of stone", "seven", "Paris is a city by the water and the garden"]
MODULES = os.environ.get("ONNXPORT_NODE_MODULES", "")
SCRIPT = Path(__file__).parents[1] / "transformers_js.mjs"
in_node = pytest.mark.skipif(
    not shutil.which("node") or not (Path(MODULES) / "@huggingface" / "transformers").is_dir() or not MODULES,
    reason="needs node, and ONNXPORT_NODE_MODULES: a node_modules folder with @huggingface/transformers",
)
KINDS = {
    "t5": "text2text-generation",
    "whisper": "automatic-speech-recognition",
    "trocr": "image-to-text",
    "vision-encoder-decoder": "image-to-text",  # with GPT-2, whose cross-attention transformers.js does not keep
}


@pytest.fixture(scope="module")
def made(converted, once):
    """Called with a kind: (source, converted, for transformers.js)"""

    def write(folder, output):
        assert find_target("transformers.js")(folder, output=output) == output

    def of(kind):
        tiny = converted("t5-untied" if kind == "t5" else kind, pipeline_name=KINDS[kind])
        root, _ = once(f"transformers-js-{kind}", lambda root: write(tiny.folder, root / "js"))
        return tiny.source, tiny.folder, root / "js"

    return of


@pytest.fixture(scope="module", params=sampled(KINDS, "t5"))
def folders(request, made):
    return request.param, *made(request.param)


@pytest.fixture(scope="module")
def texts(made):
    return made("t5")


def inputs_of(kind, rows=3):
    """At sizes that were not traced."""
    rng = np.random.default_rng(4)
    if kind == "t5":
        ids, mask = rng.integers(5, 300, (rows, 13)), np.ones((rows, 13), np.int64)
        mask[0, 6:], mask[-1, 9:] = 0, 0
        return {"input_ids": np.where(mask, ids, PAD), "attention_mask": mask}
    if kind == "whisper":
        return {"input_features": rng.standard_normal((rows, 16, 100)).astype(np.float32)}
    return {"pixel_values": rng.standard_normal((rows, 3, 32, 32)).astype(np.float32)}


def of_transformers(kind, source, inputs):
    """Greedy tokens of the source, (rows, tokens)."""
    model_class = {"t5": "AutoModelForSeq2SeqLM", "whisper": "WhisperForConditionalGeneration"}
    model = getattr(transformers, model_class.get(kind, "VisionEncoderDecoderModel")).from_pretrained(source).eval()
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        return model.generate(**given, do_sample=False, max_new_tokens=TOKENS).numpy()


def up_to_end(rows, first):
    """Tokens without what they begin with, and without what follows the end of the text."""
    found = []
    for row in rows:
        tokens = list(row[1:] if row[0] == first else row)
        found.append(tokens[: next((at for at, token in enumerate(tokens) if token in (PAD, END)), None)])
    return found


def in_javascript(folder, **asked):
    done = subprocess.run(
        ["node", str(SCRIPT), MODULES, str(folder)],
        input=json.dumps({"tokens": TOKENS} | asked), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def tensors(inputs):
    return {
        name: {"type": str(array.dtype), "dims": array.shape, "data": array.ravel().tolist()}
        for name, array in inputs.items()
    }


def test_the_pair_writes_what_transformers_writes(folders):
    kind, source, old, new = folders
    inputs = inputs_of(kind)
    written = of_transformers(kind, source, inputs)
    wanted = up_to_end(written, SequenceGenerator(old).settings().decoder_start_token_id)
    for folder in (old, new):
        generator = SequenceGenerator(folder)
        tokens = generator.tokens(inputs, generator.settings(max_new_tokens=TOKENS))
        assert up_to_end(tokens, None) == wanted
    assert len({token for row in wanted for token in row}) > 3  # else any graph would agree


def test_the_pair_is_called_as_transformers_js_does(folders):
    kind, _, old, new = folders
    encoder, decoder = (OnnxSession(new, name) for name in ("encoder_model", "decoder_model_merged"))
    assert [spec.name for spec in encoder.outputs] == ["last_hidden_state"]
    names = {spec.name for spec in decoder.inputs}
    cached = "past_key_values.0.encoder.key" in names
    assert cached == (kind != "vision-encoder-decoder")
    assert ("past_key_values.1.decoder.value" if cached else "past_key_values.1.value") in names
    assert not decoder.optional and {"input_ids", "encoder_hidden_states"} <= names
    assert {spec.axes[0] for spec in decoder.inputs} == {"batch_size"}
    nodes = onnx.load(new / decoder.component.file, load_external_data=False).graph.node
    assert "If" not in {node.op_type for node in nodes}
    # The same logits, step by step: all pasts are empty at first, and the cross-attention stays as it came.
    inputs = inputs_of(kind, rows=2)
    was = OnnxSession(old, "encoder_model").run(inputs)
    hidden = encoder.run(inputs)["last_hidden_state"]
    assert np.array_equal(hidden, was["last_hidden_state"])
    before = OnnxSession(old, "decoder_model_merged")
    fixed = {name.replace("present.", "past_key_values."): was[name] for name in was if "encoder." in name}
    given = {"encoder_hidden_states": hidden}
    if "attention_mask" in inputs:
        fixed["encoder_attention_mask"] = given["encoder_attention_mask"] = inputs["attention_mask"]
    empty = {
        spec.name: np.zeros([2, *(0 if isinstance(axis, str) else axis for axis in spec.axes[1:])], spec.dtype)
        for spec in (*before.inputs, *decoder.inputs) if spec.name.startswith("past_")
    }  # fmt: skip
    ours = {name: value for name, value in empty.items() if name in names}
    own = {name: empty[name] for name in empty if ".decoder." in name}
    rng = np.random.default_rng(5)
    for step, tokens in enumerate((3, 1, 2)):
        ids = {"input_ids": rng.integers(3, 300, (2, tokens))}
        wanted, found = before.run(fixed | own | ids), decoder.run(given | ours | ids)
        assert np.abs(found["logits"] - wanted["logits"]).max() <= 1e-5 * np.abs(wanted["logits"]).max()
        own = {name: wanted[name.replace("past_key_values.", "present.")] for name in own}
        for name in ours:
            present = found[name.replace("past_key_values.", "present.")]
            if ".encoder." not in name or step == 0:
                ours[name] = present
            else:
                assert present.shape[2] == 0
        if cached:
            key = "past_key_values.1.encoder.key"
            assert np.abs(ours[key] - fixed[key]).max() <= 1e-5 * np.abs(fixed[key]).max()


def test_the_folder_is_whole(folders):
    _, _, old, new = folders
    assert verify(new).ok and verify(old).ok
    manifest = json.loads((new / "onnxport.json").read_text())
    for part in manifest["components"]:
        cases = part["verification"]["cases"]
        assert part["verification"]["passed"] and len(cases) == 2 and not part["data_files"]
    assert cases[1]["decision_agreement"] == 1 and "16 greedy tokens, padded rows" in cases[1]["name"]
    assert json.loads((new / "config.json").read_text())["transformers.js_config"] == {"dtype": "fp32"}
    script = "@huggingface/transformers" in (new / "README.md").read_text()
    assert script and "@huggingface/transformers" not in (old / "README.md").read_text()
    assert json.loads((old / "config.json").read_text())["transformers.js_config"] == {"dtype": "fp32"}


def test_graphs_of_int8(folders, tmp_path):
    kind, _, old, _ = folders
    if kind not in ("whisper", "vision-encoder-decoder"):
        pytest.skip("two kinds of projections are enough")
    folder = shutil.copytree(old, tmp_path / "old")
    quantize(folder)
    find_target("transformers.js")(folder, output=tmp_path / "js")
    inputs = inputs_of(kind)
    written = []
    for one in (folder, tmp_path / "js"):
        generator = SequenceGenerator(one, "model_quantized")
        written.append(generator.tokens(inputs, generator.settings(max_new_tokens=TOKENS)))
    assert written[0] == written[1]


@pytest.fixture(scope="module")
def split(texts, tmp_path_factory):
    """The new folder of `texts` as if no file could hold more than 30 KB."""
    from onnxport.serialization import onnxfile

    output = tmp_path_factory.mktemp("split") / "js"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxfile, "EMBEDDED_LIMIT_BYTES", 30_000)
        return find_target("transformers.js")(texts[1], output=output)


def test_weights_that_do_not_fit_into_a_graph(texts, split):
    assert verify(split).ok
    said = json.loads((split / "config.json").read_text())["transformers.js_config"]["use_external_data_format"]
    assert set(said) == {"encoder_model.onnx", "decoder_model_merged.onnx"} and min(said.values()) > 1
    for name, count in said.items():
        found = {file.name for file in (split / "onnx").glob(f"{name}_data*")}
        assert found == {f"{name}_data", *(f"{name}_data_{number}" for number in range(1, count))}
    assert TextToTextGenerator(split)(TEXTS, max_new_tokens=9) == TextToTextGenerator(texts[1])(TEXTS, max_new_tokens=9)


def test_other_logits_are_a_failure(texts, tmp_path, monkeypatch):
    _, old, _ = texts
    right = cross_projection.move_projections

    def wrong(encoder, decoder, **options):
        right(encoder, decoder, **options)
        weight = next(value for name, value in decoder.graph.initializers.items() if name.startswith("cross.val"))
        turned = numpy_helper.from_array(-weight.const_value.numpy(), weight.name)
        weight.const_value = type(weight.const_value)(turned)

    monkeypatch.setattr(cross_projection, "move_projections", wrong)
    with pytest.raises(VerificationError, match=r"for transformers\.js differ"):
        find_target("transformers.js")(old, output=tmp_path / "js")
    assert not (tmp_path / "js").exists()


def test_what_cannot_be_done_is_said(texts, tmp_path, capsys):
    source, old, new = texts
    write = find_target("transformers.js")
    with pytest.raises(UsageError, match="another folder"):
        write(old)
    with pytest.raises(UsageError, match="by its dtype"):
        write(old, component="model_q4", output=tmp_path / "js")
    with pytest.raises(OutputError):
        write(old, output=new)
    with pytest.raises(UsageError, match="already"):
        write(new, output=tmp_path / "js")
    assert main(["convert", str(source), str(tmp_path / "o"), "--target", "transformers.js"]) == 2
    assert "onnxport target transformers.js" in capsys.readouterr().err
    assert main(["target", "transformers.js", str(old), str(tmp_path / "cli"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "cli")
    # A mask that it would not give.
    masked = shutil.copytree(old, tmp_path / "masked")
    said = json.loads((masked / "onnxport.json").read_text())
    said["components"][0]["inputs"][0]["name"] = "input_features"
    (masked / "onnxport.json").write_text(json.dumps(said))
    with pytest.raises(UsageError, match=r"does not give onnx/encoder_model\.onnx its input attention_mask"):
        write(masked, output=tmp_path / "js")
    assert not (tmp_path / "js").exists()


def test_projections_of_something_else_are_refused(texts):
    import onnx_ir as ir

    _, old, _ = texts
    encoder, decoder = (ir.load(old / "onnx" / f"{name}.onnx") for name in ("encoder_model", "decoder_model_merged"))
    key = next(value for value in encoder.graph.outputs if value.name == "present.0.encoder.key")
    view = key.producer().inputs[0].producer()
    mask = ir.node("Cast", [encoder.graph.inputs[1]], {"to": 1})
    total = ir.node("ReduceSum", [mask.outputs[0]], {"keepdims": 0})
    scaled = ir.node("Mul", [view.inputs[0], total.outputs[0]])
    scaled.outputs[0].shape = view.inputs[0].shape
    encoder.graph.insert_before(view, [mask, total, scaled])
    view.replace_input_with(0, scaled.outputs[0])
    with pytest.raises(ExportError, match="more than these hidden states"):
        cross_projection.move_projections(encoder, decoder)


@pytest.fixture(scope="module")
def decoder(converted, once):
    tiny = converted("llama", {"tokenizer": "modernbert"})
    write = find_target("transformers.js")
    root, _ = once("transformers-js-llama", lambda root: write(tiny.folder, output=root / "js"))
    return tiny.source, tiny.folder, root / "js"


def test_a_decoder_must_be_told_which_logits(decoder):
    _, old, new = decoder
    session = OnnxSession(new)
    assert "num_logits_to_keep" in {spec.name for spec in session.inputs} and not session.optional
    assert verify(new).ok
    with pytest.raises(OutputError):
        find_target("transformers.js")(old, output=new)


@in_node
def test_tokens_in_node(folders):
    kind, source, _, new = folders
    inputs = inputs_of(kind, rows=1 if kind == "whisper" else 3)  # it begins answers about sound for one row
    classes = {"t5": "AutoModelForSeq2SeqLM", "whisper": "WhisperForConditionalGeneration"}
    model_class = classes.get(kind, "AutoModelForVision2Seq")
    found = in_javascript(new, **{"class": model_class}, inputs=tensors(inputs))
    first = SequenceGenerator(new).settings().decoder_start_token_id
    assert up_to_end(found, first) == up_to_end(of_transformers(kind, source, inputs), first)


@in_node
def test_texts_in_node(texts, split):
    wanted = TextToTextGenerator(texts[1])(TEXTS, max_new_tokens=TOKENS)
    for folder in (texts[2], split):
        found = in_javascript(folder, task="text2text-generation", texts=TEXTS)
        assert [row["generated_text"] for row in found] == wanted


@in_node
@pytest.mark.parametrize("which", [1, 2], ids=["as it is", "for transformers.js"])
def test_a_decoder_in_node(decoder, which):
    source, folder = decoder[0], decoder[which]
    rng = np.random.default_rng(3)
    mask = np.ones((3, 11), np.int64)
    mask[0, :5], mask[1, :2] = 0, 0
    inputs = {"input_ids": rng.integers(3, VOCABULARY, (3, 11)), "attention_mask": mask}
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    with torch.no_grad():
        wanted = model.generate(
            **{name: torch.from_numpy(array) for name, array in inputs.items()}, do_sample=False, max_new_tokens=TOKENS
        )[:, 11:].tolist()
    found = in_javascript(folder, **{"class": "AutoModelForCausalLM"}, inputs=tensors(inputs))
    assert up_to_end([row[11:] for row in found], None) == up_to_end(wanted, None)
