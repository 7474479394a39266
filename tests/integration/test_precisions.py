"""uint8, q4f16, bnb4 and static int8 of folders: numbers, records, and what transformers.js makes of them in Node.

Node is described in test_transformers_js.py.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from onnxport import convert, quantize, verify
from onnxport.artifact.folder import open_folder
from onnxport.cli.main import main
from onnxport.errors import UsageError
from onnxport.runtime.pipeline import open_pipeline
from onnxport.runtime.session import OnnxSession
from onnxport.targets import find_target
from tests.integration.test_transformers_js import KINDS, TEXTS, in_javascript, in_node, inputs_of, tensors

pytestmark = pytest.mark.integration
PRECISIONS = {"uint8": "uint8", "q4f16": "q4f16", "bnb4": "bnb4", "fp16": "fp16"}  # dtype of transformers.js: precision
NAMES = {"fp32": "model", "q8": "model_quantized"} | {dtype: f"model_{dtype}" for dtype in PRECISIONS}
OTHERS = {"q4": "int4", "int8": "int8-weights"}


@pytest.fixture(scope="module")
def encoder(converted, once):
    """A folder of a sentence encoder with all of them."""

    def make(root):
        converted("sentence-bert").copy(root / "encoder")
        for precision in (*PRECISIONS.values(), "int8", "int8-static"):
            quantize(root / "encoder", precision)

    return once("encoder-precisions", make)[0] / "encoder"


def embeddings(folder, name, texts):
    with open_pipeline(folder, component=name) as embed:
        return np.array(embed.encode(texts))


def cosines(one, other):
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def test_what_each_precision_is_made_of(encoder):
    parts = {one.name: one for one in open_folder(encoder).manifest.components}
    wanted = embeddings(encoder, "model", TEXTS)
    # (least cosine with float32, an operator, most bytes of the float32 graph's)
    bounds = {
        "model_uint8": (0.999, "MatMulInteger", 0.5), "model_int8_static": (0.999, "QuantizeLinear", 0.55),
        "model_q4f16": (0.95, "com.microsoft::MatMulNBits", 0.5),
        "model_bnb4": (0.9, "com.microsoft::MatMulBnb4", 0.55),
    }  # fmt: skip
    for name, (least, operator, share) in bounds.items():
        found, part = cosines(embeddings(encoder, name, TEXTS), wanted), parts[name]
        assert least < found.min() and found.mean() < 1 - 1e-6  # rounding can be seen
        assert part.operators[operator] and part.size_bytes < share * parts["model"].size_bytes
        assert part.verification.passed and part.ledger.weights
    for name in ("model_q4f16", "model_bnb4"):
        assert parts[name].verification.distance.max_rel_error > 0.01
    exact = [output.max_rel_error for case in parts["model_bnb4"].verification.cases for output in case.outputs]
    assert max(exact) < 1e-4  # with the same weights in float32
    assert parts["model_q4f16"].raised_weights
    assert verify(encoder).ok


def test_a_text_alone_and_in_a_batch(encoder):
    texts = [*TEXTS, "a"]  # the others are longer: it is padded
    for name, least in (("model_int8_static", 0.99999), ("model_quantized", None)):
        batch = embeddings(encoder, name, texts)
        alone = np.concatenate([embeddings(encoder, name, [text]) for text in texts])
        found = cosines(batch, alone)
        assert found.min() > least if least else found.min() < 0.9999


def test_what_the_manifest_says_of_a_calibrated_graph(encoder):
    (part,) = (one for one in open_folder(encoder).manifest.components if one.precision == "int8-static")
    assert part.file == "onnx/model_int8_static.onnx" and part.derived_from == "model"
    assert (part.calibration.method, part.calibration.inputs) == ("minmax", "211 texts")
    assert part.calibration.count + part.loss.count == 211
    assert part.loss.measure == "cosine" and 0 < part.loss.mean < 0.01
    said = (encoder / "README.md").read_text()
    assert f"static scales (minmax, {part.calibration.count} of 211 texts). On {part.loss.count} further rows" in said
    notes = verify(encoder).notes
    assert any("model_int8_static.onnx: the sums of" in note for note in notes)
    assert len([name for name in part.ledger.weights if name.endswith("_quantized")]) == 12


def test_data_of_a_user(encoder, tmp_path, capsys):
    folder = shutil.copytree(encoder, tmp_path / "out")
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(f"{text} {number}" for number in range(4) for text in TEXTS))
    said = ["quantize", str(folder), "-p", "int8-static", "--calibration", "percentile", "--data", str(lines)]
    assert main([*said, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"].endswith("model_int8_static.onnx")
    part = open_folder(folder).manifest.find("model_int8_static")
    assert part.calibration.method == "percentile" and part.calibration.inputs == "12 texts"
    ids = np.arange(60).reshape(6, 10) % 50 + 5
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    names = [spec.name for spec in OnnxSession(folder).inputs]
    np.savez(tmp_path / "samples.npz", **{name: arrays[name] for name in names})
    quantize(folder, "int8-static", data=tmp_path / "samples.npz")
    part = open_folder(folder).manifest.find("model_int8_static")
    assert part.calibration.inputs == "6 samples of samples.npz" and part.calibration.count + part.loss.count == 6
    np.savez(tmp_path / "other.npz", input_ids=ids)
    for wrong in ({"data": tmp_path / "other.npz"}, {"data": tmp_path / "none"}, {"calibration": "mse"}):
        with pytest.raises(UsageError):
            quantize(folder, "int8-static", **wrong)
    for precision, wrong in (
        ("int8", {"data": lines}), ("uint8", {"float_activations": True}), ("bnb4", {"float_activations": True}),
        ("q4f16", {"float_activations": True}), ("bnb4", {"checkpoint": tmp_path}), ("fp16", {"calibration": "minmax"}),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            quantize(folder, precision, **wrong)
    with pytest.raises(UsageError, match="single graph"):
        quantize(folder / "onnx" / "model.onnx", "int8-static")


def test_single_graphs(encoder, tmp_path):
    shutil.copy(encoder / "onnx" / "model.onnx", tmp_path / "one.onnx")
    for precision in ("uint8", "q4f16", "bnb4"):
        assert quantize(tmp_path / "one.onnx", precision).name == f"one-{precision}.onnx"


@pytest.fixture(scope="module")
def pair(converted, once):
    """A folder of an encoder-decoder with the sets that it can have, and the same for transformers.js."""

    def make(root):
        converted("t5-untied", pipeline_name=KINDS["t5"]).copy(root / "out")
        for precision in ("q4f16", "bnb4"):
            quantize(root / "out", precision)
        find_target("transformers.js")(root / "out", output=root / "js")

    return once("pair-precisions", make)[0]


@pytest.mark.sweep
def test_sets_are_complete(pair):
    names = {one.name for one in open_folder(pair / "js").manifest.components}
    assert names == {
        f"{graph}{ending}" for graph in ("encoder_model", "decoder_model_merged")
        for ending in ("", "_q4f16", "_bnb4")
    }  # fmt: skip
    before = {file.name for file in (pair / "out" / "onnx").iterdir()}
    with pytest.raises(UsageError, match="int8-static is for single encoders"):
        quantize(pair / "out", "int8-static")
    assert {file.name for file in (pair / "out" / "onnx").iterdir()} == before
    assert verify(pair / "out").ok


@in_node
def test_embeddings_in_node(encoder):
    asked = {"task": "feature-extraction", "settings": {"pooling": "mean", "normalize": True}}
    found = in_javascript(encoder, texts=TEXTS, dtypes=list(NAMES), **asked)
    for dtype, name in NAMES.items():
        wanted = np.concatenate([embeddings(encoder, name, [text]) for text in TEXTS])
        same = cosines(np.array(found[dtype]), wanted)
        assert same.min() > (0.999 if dtype in ("uint8", "q8") else 1 - 1e-4), dtype
    static = in_javascript(encoder, texts=TEXTS, options={"model_file_name": "model_int8_static"}, **asked)
    assert cosines(np.array(static), embeddings(encoder, "model_int8_static", TEXTS)).min() > 0.999


@in_node
@pytest.mark.sweep
def test_tokens_in_node(pair, converted, tmp_path):
    from onnxport.runtime.sequence_generation import SequenceGenerator
    from onnxport.runtime.text_generation import TextGenerator

    inputs = inputs_of("t5")
    dtypes = ["fp32", "q4f16", "bnb4"]
    found = in_javascript(
        pair / "js", inputs=tensors(inputs), dtypes=dtypes, tokens=4, **{"class": "AutoModelForSeq2SeqLM"}
    )
    for dtype in dtypes:
        suffix = "" if dtype == "fp32" else f"_{dtype}"
        generator = SequenceGenerator(pair / "js", f"model{suffix}")
        wanted = generator.tokens(inputs, generator.settings(max_new_tokens=4))
        assert [row[1 : 1 + len(one)] for row, one in zip(found[dtype], wanted, strict=True)] == wanted, dtype
    folder = converted("llama", {"tokenizer": "modernbert"}).copy(tmp_path / "llama")
    for precision in (*PRECISIONS.values(), *OTHERS.values(), "int8"):
        quantize(folder, precision)
    names = NAMES | {dtype: f"model_{dtype}" for dtype in OTHERS}
    given = {"return_full_text": False, "add_special_tokens": True}
    found = in_javascript(folder, task="text-generation", texts=TEXTS, tokens=2, settings=given, dtypes=list(names))
    for dtype, name in names.items():
        with TextGenerator(folder, name) as write:
            wanted = [write(text, max_new_tokens=2) for text in TEXTS]
        assert [row[0]["generated_text"] for row in found[dtype]] == wanted, dtype


@pytest.mark.sweep
@pytest.mark.parametrize(
    "name", ["resnet-image-classification", "convnext-image-classification", "vit-image-classification"]
)
def test_images_are_calibrated_on_generated_ones(converted, tmp_path, name):
    tiny = converted(name)
    folder = tiny.copy(tmp_path / "out")
    quantize(folder, "int8-static")
    part = open_folder(folder).manifest.find("model_int8_static")
    assert part.calibration.inputs.endswith("generated inputs") and part.loss.mean < 0.05
    assert part.operators["QuantizeLinear"] > 2
    assert verify(folder, against=tiny.source).verifications["model_int8_static"].passed


@pytest.mark.sweep
def test_long_biases_of_convolutions_are_proved(tmp_path):
    import torch

    class Channels(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.linear = torch.nn.Conv2d(4, 1200, 3), torch.nn.Linear(1200, 1100)

        def forward(self, images):
            return self.linear(torch.relu(self.convolution(images)).mean((2, 3)))

    torch.manual_seed(0)
    images = torch.randn(3, 4, 12, 12)
    model = Channels().eval()
    convert(None, model, tmp_path / "out", sample_inputs={"images": images})
    quantize(tmp_path / "out", "int8-static")
    opened = open_folder(tmp_path / "out")
    part = opened.manifest.find("model_int8_static")
    assert part.ledger.weights["convolution.bias_quantized"].transform.startswith("quantized to 32 bits")
    with torch.no_grad():
        wanted = model(images).numpy()
    (found,) = OnnxSession(tmp_path / "out", "model_int8_static").run({"images": images.numpy()}).values()
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
