"""A model whose own `generate` lets a decoder inside write about an image becomes the graphs of an encoder-decoder."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from onnxport import convert, pipeline
from onnxport.cli.main import main
from onnxport.errors import TaskError, UsageError
from onnxport.pipelines.onnx.load import load_onnx_model
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.encoder import Encoder
from onnxport.runtime.session import OnnxSession
from onnxport.sources.pytorch.inner_decoder import inner_decoder

# make graphs holds this kind too.
pytestmark = [pytest.mark.integration, pytest.mark.sweep]

VOCABULARY = 2000  # a table of 2000 x 32 numbers is worth sharing


@pytest.fixture(scope="module")
def blip(converted):
    """(source model, folder, conversion)"""
    tiny = converted("blip", {"vocabulary": VOCABULARY})
    model = transformers.BlipForConditionalGeneration.from_pretrained(tiny.source).eval()
    return model, tiny.folder, tiny.conversion


def pixels(rows):
    return np.random.default_rng(rows).standard_normal((rows, 3, 32, 32), np.float32)


def test_it_is_verified_with_each_weight_once(blip):
    model, folder, conversion = blip
    assert conversion.passed
    assert conversion.manifest.task == "image-to-text"
    assert [component.name for component in conversion.manifest.components] == ["encoder_model", "decoder_model_merged"]
    checks = [case.name for case in conversion.manifest.components[1].verification.cases]
    assert sum("greedy" in check for check in checks) >= 2, checks
    stored = sum(file.stat().st_size for file in (folder / "onnx").glob("*_data"))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert stored <= weights + 50_000


@pytest.mark.parametrize("rows", [1, 4])
def test_logits_in_parts_are_those_of_the_model(blip, rows):
    model, folder, _ = blip
    tokens = np.random.default_rng(rows).integers(5, VOCABULARY, (rows, 19))
    with torch.no_grad():
        wanted = model(pixel_values=torch.from_numpy(pixels(rows)), input_ids=torch.from_numpy(tokens)).logits.numpy()
    encoder, decoder = (
        OnnxSession(folder / "onnx" / f"{name}.onnx") for name in ("encoder_model", "decoder_model_merged")
    )
    writer = Decoder(decoder)
    progress = writer.start(rows, Encoder(encoder).encode({"pixel_values": pixels(rows)}))
    for first, last in ((0, 6), (6, 7), (7, 19)):
        found = writer.step(progress, tokens[:, first:last])
        assert np.abs(found - wanted[:, last - 1]).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 3}])
def test_the_run_time_writes_what_its_own_generate_writes(blip, settings):
    model, folder, _ = blip
    given = {"pixel_values": torch.from_numpy(pixels(3))}
    wanted = model.generate(**given, **settings, max_new_tokens=20)
    found = load_onnx_model(folder).generate(**given, **settings, max_new_tokens=20)
    assert found.tolist() == wanted.tolist()
    assert len(wanted.unique()) > 3


def test_answers_begin_and_end_where_its_own_generate_says(blip):
    model, folder, _ = blip
    said = json.loads((folder / "generation_config.json").read_text())
    text = model.config.text_config
    assert text.sep_token_id != text.eos_token_id
    assert (said["decoder_start_token_id"], said["eos_token_id"]) == (text.bos_token_id, text.sep_token_id)


def test_pipelines_of_the_folder_and_of_the_checkpoint_agree(blip, tmp_path, capsys):
    _, folder, _ = blip
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    source, found = (
        pipeline("image-to-text", model=str(place))(image, max_new_tokens=12) for place in (folder.parent / "m", folder)
    )
    assert found == source
    image.save(tmp_path / "photo.png")
    assert main(["run", str(folder), str(tmp_path / "photo.png"), "--set", "max_new_tokens=12"]) == 0
    assert source[0]["generated_text"].strip() in capsys.readouterr().out
    with pytest.raises(UsageError, match="without a prompt"):
        pipeline("image-to-text", model=str(folder))(image, prompt="a cat")


def test_it_runs_without_a_framework(blip, tmp_path):
    model, folder, _ = blip
    np.save(tmp_path / "pixels.npy", pixels(2))
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, onnx=None)\n"
        "import json, numpy as np\n"
        "from onnxport.runtime.sequence_generation import SequenceGenerator\n"
        f"writer = SequenceGenerator({str(folder)!r})\n"
        f"inputs = {{'pixel_values': np.load({str(tmp_path / 'pixels.npy')!r})}}\n"
        "print(json.dumps(writer.tokens(inputs, writer.settings(max_new_tokens=12))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = model.generate(torch.from_numpy(pixels(2)), max_new_tokens=12)[:, 1:].tolist()
    assert json.loads(done.stdout) == wanted


def test_its_image_does_not_stand_in_its_text(blip, tmp_path):
    with pytest.raises(TaskError, match="does not stand in the sequence") as caught:
        convert(None, blip[1].parent / "m", tmp_path / "out", pipeline_name="image-text-to-text")
    assert "image-to-text" in caught.value.hint


def test_what_has_no_decoder_inside_is_not_taken_for_such_a_model():
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.BlipConfig(text_config=small, vision_config={**small, "image_size": 32})
    # Its question has an encoder of its own.
    assert inner_decoder(transformers.BlipForQuestionAnswering(config)) is None
    assert inner_decoder(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=1, n_head=4))) is None
