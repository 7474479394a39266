"""Graphs of fixed sizes beside decoders: texts, images, sounds, encoder-decoders, and images in texts.

BART and Marian, whose positions come from tables as those of Whisper do, LLaVA, a prompt of which is split as one of
Qwen2-VL is, and Gemma 3, which takes a prompt in one call, are for the sweep.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
import transformers
from PIL import Image

from onnxport import convert, optimize, pipeline, verify
from onnxport.errors import ExportError, UsageError
from onnxport.pipelines.onnx.load import load_onnx_model
from onnxport.runtime.image_text_generation import ImageTextGenerator
from onnxport.runtime.sequence_generation import SequenceGenerator, TextToTextGenerator
from onnxport.runtime.session import OnnxSession
from onnxport.variants.static_shapes.write import fix_sizes
from tests.files import files_of
from tests.sample import sampled
from tests.tiny_images_in_text import processor_of
from tests.unit.cli_runner import run

pytestmark = pytest.mark.integration

TEXTS = ["the river of stone", "seven", "Paris is a city by the water and the garden"]
TASKS = {"t5-untied": "text2text-generation", "bart": "summarization", "marian": "translation"}


@pytest.fixture(scope="module")
def fixed(converted, tmp_path_factory):
    """Called with the name of a tiny model and sizes: its folder, with a fixed graph."""

    def of(name, sizes):
        folder = converted(name).copy(tmp_path_factory.mktemp(name) / "out")
        fix_sizes(folder, sizes)
        return folder

    return of


def is_static(file):
    graph = onnx.load(file, load_external_data=False).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    named = {value.name for value in values}
    return (
        all(d.HasField("dim_value") for value in values for d in value.type.tensor_type.shape.dim)
        and all(output in named for node in graph.node for output in node.output if output)
        and not any(node.op_type == "Shape" for node in graph.node)
    )


@pytest.fixture(scope="module")
def classifier(fixed):
    return fixed("bert-text-classification", {"batch_size": 4, "sequence_length": 24})


@pytest.fixture(scope="module")
def source(converted):
    """What `classifier` was converted from."""
    return converted("bert-text-classification").source


def text_inputs(rows, tokens, seed=0):
    ids = np.random.default_rng(seed).integers(5, 90, (rows, tokens))
    mask = np.ones_like(ids)
    mask[-1, tokens - tokens // 3 :] = 0
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": mask}


@pytest.mark.parametrize("shape", [(4, 24), (1, 1), (3, 17), (4, 5), (2, 24)])
def test_smaller_texts_are_filled_up(classifier, source, shape):
    assert is_static(classifier / "onnx" / "model_fixed.onnx")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    given = text_inputs(*shape)
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    found = OnnxSession(classifier, "model_fixed").run(given)["logits"]
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-5


def test_larger_texts_are_refused(classifier):
    session = OnnxSession(classifier, "model_fixed")
    with pytest.raises(UsageError, match=r"sequence_length is 25, and model_fixed\.onnx is fixed at 24") as caught:
        session.run(text_inputs(1, 25))
    assert "onnxport optimize FOLDER --sizes batch_size=4,sequence_length=25" in str(caught.value.hint)
    with pytest.raises(UsageError, match="batch_size is 5"):
        session.run(text_inputs(5, 3))


def test_pipelines_and_the_command_line(classifier, source, capsys):
    texts = ["I love it.", "it was not good at all"]
    wanted = pipeline(model=str(classifier))(texts)
    shown = [run(capsys, "run", classifier, *texts, "--component", name) for name in ("model", "model_fixed")]
    assert shown[0].code == shown[1].code == 0 and shown[0].out == shown[1].out
    assert wanted[0]["label"] in shown[1].out
    assert verify(classifier).ok and verify(classifier, against=source).ok
    too_long = run(capsys, "run", classifier, "the cat sat on the mat " * 9, "--component", "model_fixed")
    assert too_long.code == 2 and "fixed at 24" in too_long.err
    rules = {
        (limit["axis"], limit["rule"]): limit["reason"]
        for c in json.loads((classifier / "onnxport.json").read_text())["components"]
        for limit in c["restrictions"]
    }
    assert "onnxport pads smaller inputs" in rules["sequence_length", "fixed at 24"]


def test_a_size_outside_of_the_restrictions(classifier):
    with pytest.raises(UsageError, match="sequence_length is 65, it must be at most 64") as caught:
        fix_sizes(classifier, {"batch_size": 1, "sequence_length": 65})
    assert "sequence_length=64" in str(caught.value.hint)


def test_outputs_for_each_token_lose_what_was_filled_up(fixed):
    folder = fixed("sentence-bert", {"batch_size": 2, "sequence_length": 16})
    given = text_inputs(1, 7)
    wanted, found = (OnnxSession(folder, name).run(given) for name in ("model", "model_fixed"))
    for name in wanted:
        assert found[name].shape == wanted[name].shape
        assert np.abs(found[name] - wanted[name]).max() < 1e-5


def test_where_filling_up_changes_numbers_it_is_refused(tmp_path):
    """An average over positions, without a mask."""

    class Average(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(100, 8)

        def forward(self, input_ids):
            return self.table(input_ids).mean(1)

    convert(None, Average(), tmp_path / "out", sample_inputs={"input_ids": torch.randint(0, 50, (2, 9))})
    specs = {spec.name: spec.axes for spec in OnnxSession(tmp_path / "out").inputs}["input_ids"]
    fix_sizes(tmp_path / "out", dict(zip(specs, (3, 8), strict=True)))
    session, portable = OnnxSession(tmp_path / "out", "model_fixed"), OnnxSession(tmp_path / "out")
    ids = np.arange(16).reshape(2, 8)
    wanted, found = (one.run({"input_ids": ids}) for one in (portable, session))
    assert all(np.abs(wanted[name] - found[name]).max() < 1e-5 for name in wanted)
    with pytest.raises(UsageError, match=r"is 7, and model_fixed.onnx is fixed at 8; padding this axis would change"):
        session.run({"input_ids": ids[:, :7]})


@pytest.mark.sweep
def test_images(fixed):
    folder = fixed("resnet-image-classification", {"batch_size": 2, "height": 64, "width": 96})
    assert is_static(folder / "onnx" / "model_fixed.onnx")
    pixels = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    wanted, found = (
        OnnxSession(folder, name).run({"pixel_values": pixels})["logits"] for name in ("model", "model_fixed")
    )
    assert np.abs(wanted - found).max() < 1e-5
    with pytest.raises(UsageError, match=r"height is 60.*padding this axis would change"):
        OnnxSession(folder, "model_fixed").run({"pixel_values": pixels[:, :, :60]})
    with pytest.raises(UsageError, match="width is 20, it must be at least 33"):
        fix_sizes(folder, {"batch_size": 1, "height": 64, "width": 20})


@pytest.mark.sweep
def test_an_axis_that_is_not_free(converted, tmp_path):
    converted("vit-image-classification").copy(tmp_path / "out")
    with pytest.raises(UsageError, match="height=64: the axis is static, model is fixed at 32") as caught:
        fix_sizes(tmp_path / "out", {"batch_size": 1, "height": 64})
    assert "--sizes batch_size=1" in str(caught.value.hint)
    # The size that it has is no mistake.
    assert fix_sizes(tmp_path / "out", {"batch_size": 1, "height": 32}).is_file()
    assert is_static(tmp_path / "out" / "onnx" / "model_fixed.onnx")


@pytest.mark.sweep
def test_shapes_that_inference_does_not_find(fixed):
    """GroupNormalization: what comes behind it is known from a run."""
    folder = fixed("wav2vec2-automatic-speech-recognition", {"batch_size": 1, "num_samples": 4000})
    assert is_static(folder / "onnx" / "model_fixed.onnx")
    sound = np.random.default_rng(0).standard_normal((1, 4000)).astype(np.float32)
    wanted, found = (OnnxSession(folder, n).run({"input_values": sound})["logits"] for n in ("model", "model_fixed"))
    assert found.shape == (1, 12, 32) and np.abs(wanted - found).max() < 1e-4


@pytest.fixture(scope="module", params=sampled(TASKS))
def translator(request, converted, tmp_path_factory):
    """Relative positions; learned ones; ones of sines, from the length of the past."""
    tiny = converted(request.param, pipeline_name=TASKS[request.param])
    folder = tiny.copy(tmp_path_factory.mktemp(request.param) / "out")
    sizes = {"batch_size": 3, "sequence_length": 2, "past_sequence_length": 21, "encoder_sequence_length": 32}
    file = fix_sizes(folder, sizes)
    assert file.name == "decoder_model_merged_fixed.onnx"
    return folder


def test_encoder_decoders_write_the_same(translator):
    assert all(is_static(translator / "onnx" / f"{n}_fixed.onnx") for n in ("encoder_model", "decoder_model_merged"))
    write, other = TextToTextGenerator(translator), TextToTextGenerator(translator, component="model_fixed")
    for texts in (TEXTS, TEXTS[:1], TEXTS[1:2]):
        assert other(texts, max_new_tokens=20, num_beams=1) == write(texts, max_new_tokens=20, num_beams=1)
    assert other(TEXTS[0], num_beams=3, max_new_tokens=9) == write(TEXTS[0], num_beams=3, max_new_tokens=9)
    ids = np.random.default_rng(1).integers(5, 200, (2, 13))
    mask = np.ones_like(ids)
    mask[1, 8:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    tokens = [one.tokens(given, one.settings(max_new_tokens=18, num_beams=1)) for one in (write, other)]
    assert tokens[0] == tokens[1]
    with pytest.raises(UsageError, match="sees 23 at most"):
        other(TEXTS[0], max_new_tokens=30, num_beams=1)
    with pytest.raises(UsageError, match=r"sequence_length is .* fixed at 32"):
        other("the river of stone " * 20, max_new_tokens=2)
    assert verify(translator).ok


def test_all_axes_that_lack_a_size_are_named(translator):
    with pytest.raises(UsageError, match="encoder_model for sequence_length; decoder_model_merged for") as caught:
        fix_sizes(translator, {"batch_size": 1})
    hint = str(caught.value.hint)
    for axis in ("batch_size=1", "encoder_sequence_length=64", "sequence_length=1", "past_sequence_length=512"):
        assert axis in hint


def test_the_encoder_alone(translator, tmp_path):
    copy = shutil.copytree(translator, tmp_path / "out")
    file = fix_sizes(copy, {"encoder_model.batch_size": 2, "encoder_model.sequence_length": 20})
    assert file.name == "encoder_model_fixed.onnx"
    graph = onnx.load(file, load_external_data=False).graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [2, 20]


@pytest.mark.sweep
def test_speech(converted, tmp_path):
    converted("whisper", pipeline_name="automatic-speech-recognition").copy(tmp_path / "out")
    fix_sizes(tmp_path / "out", {"batch_size": 2, "sequence_length": 1, "past_sequence_length": 24})
    sound = {"input_features": np.random.default_rng(0).standard_normal((2, 16, 100)).astype(np.float32)}
    writers = [SequenceGenerator(tmp_path / "out", component=name) for name in ("model", "model_fixed")]
    tokens = [one.tokens(sound, one.settings(max_new_tokens=20)) for one in writers]
    assert tokens[0] == tokens[1]
    assert load_onnx_model(tmp_path / "out", "model_fixed").can_generate()


@pytest.mark.sweep
def test_a_past_that_cannot_be_hidden_is_refused(converted, tmp_path):
    converted("trocr", {"seed": 3, "vocabulary": 2000}, pipeline_name="image-to-text").copy(tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(ExportError, match="this decoder has no attention_mask"):
        optimize(tmp_path / "out", sizes={"batch_size": 1, "sequence_length": 1, "past_sequence_length": 20})
    after = files_of(tmp_path / "out")
    assert after == before


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        pytest.param("llava", 4, marks=pytest.mark.sweep),
        pytest.param("gemma3", 30, marks=pytest.mark.sweep),
        pytest.param("qwen2_vl", 5, marks=pytest.mark.sweep),
    ],
)
def test_images_in_texts(converted, tmp_path, name, tokens):
    """A prompt in several calls; one whose image tokens see later ones; positions on three axes."""
    tiny = converted(name, {"vocabulary": 2000})
    processor = processor_of(name, tiny.source)
    tiny.copy(tmp_path / "out")
    sizes = {"batch_size": 1, "sequence_length": tokens, "past_sequence_length": 60}
    fix_sizes(tmp_path / "out", sizes)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    text = f"{getattr(processor, 'boi_token', processor.image_token)} the river"
    made = processor(text=[text], images=[picture], padding=True, return_tensors="pt")
    given = {name: value.numpy() for name, value in made.items()}
    writers = [ImageTextGenerator(tmp_path / "out", component=one) for one in ("model", "model_fixed")]
    answers = [one.tokens(given, one.settings(max_new_tokens=12)) for one in writers]
    assert answers[0] == answers[1]
    if name == "gemma3":
        fix_sizes(tmp_path / "out", sizes | {"sequence_length": 3})
        short = ImageTextGenerator(tmp_path / "out", component="model_fixed")
        with pytest.raises(UsageError, match="needs the whole prompt in one call"):
            short.tokens(given, short.settings(max_new_tokens=2))
    if name == "qwen2_vl":  # and a graph of a fixed number of patches, whatever their grid
        patches = len(given["pixel_values"])
        fix_sizes(tmp_path / "out", {"num_patches": patches})
        both = ImageTextGenerator(tmp_path / "out", component="model_fixed")
        assert both.tokens(given, both.settings(max_new_tokens=12)) == answers[0]
        grid = np.array([[1, 2, patches // 2]])
        found = [
            OnnxSession(tmp_path / "out", one).run({"pixel_values": given["pixel_values"], "image_grid_thw": grid})
            for one in ("vision_encoder", "vision_encoder_fixed")
        ]
        assert np.abs(found[0]["image_features"] - found[1]["image_features"]).max() < 1e-5


@pytest.mark.sweep
def test_that_zeros_are_right_by_luck_is_no_permission(fixed):
    """A convolution fills up with zeros itself, so the next smaller images have the same numbers; others have not."""
    folder = fixed("segformer-semantic-segmentation", {"batch_size": 1, "height": 64, "width": 96})
    assert OnnxSession(folder, "model_fixed").static_axes.padded == frozenset()
    with pytest.raises(UsageError, match="width is 95"):
        OnnxSession(folder, "model_fixed").run({"pixel_values": np.zeros((1, 3, 64, 95), np.float32)})
