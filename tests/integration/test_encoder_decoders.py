"""Encoder-decoders become two graphs that share their weights, and write what PyTorch writes.

`make test` has one that reads text and one that reads images; test_sequence_generation.py has one that reads sounds.
The sweep has the others, among them those whose encoder shortens a mask over sounds.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from onnxport import convert, infer_shapes, pipeline
from onnxport.errors import TaskError, UsageError
from onnxport.pipelines.onnx.load import load_onnx_model
from onnxport.runtime.session import OnnxSession
from tests.sample import sampled
from tests.tiny_encoder_decoders import TABLE, save_encoder_decoder

pytestmark = pytest.mark.integration

VOCABULARY = 2000  # a table of 2000 x 32 numbers is worth sharing
TASKS = {
    "t5": "translation",
    "bart": "summarization",
    "whisper": "automatic-speech-recognition",
    "moonshine": "automatic-speech-recognition",
    "speech_to_text": "automatic-speech-recognition",
    "trocr": "image-to-text",
}
SEEDS = {"speech_to_text": 0}  # whose answers are not one token for ever
SOUNDS = {"moonshine": "input_values", "speech_to_text": "input_features", "whisper": "input_features"}


KINDS = ["t5", "m2m_100", "whisper", "moonshine", "speech_to_text", "trocr"]


@pytest.fixture(scope="module", params=sampled(KINDS, "t5"))
def pair(request, converted):
    """(name, source model, folder, conversion)"""
    name = request.param
    checkpoint = {"seed": SEEDS.get(name, 3), "vocabulary": VOCABULARY}
    tiny = converted(name, checkpoint, pipeline_name=TASKS.get(name, "text2text-generation"))
    model = getattr(transformers, TABLE[name][0]).from_pretrained(tiny.source).eval()
    return name, model, tiny.folder, tiny.conversion


def inputs_of(name, rows, size):
    """Inputs of an encoder at a size that the conversion does not try; every second row is shorter."""
    rng = np.random.default_rng([rows, size])
    lengths = [size - size // 3 * (row % 2) for row in range(rows)]
    if name in ("t5", "m2m_100"):
        mask = (np.arange(size) < np.array(lengths)[:, None]).astype(np.int64)
        return {"input_ids": rng.integers(5, VOCABULARY, (rows, size)) * mask, "attention_mask": mask}
    if name == "trocr":
        return {"pixel_values": rng.standard_normal((rows, 3, 32, 32), np.float32)}
    if name == "whisper":
        return {"input_features": rng.standard_normal((rows, 16, 100), np.float32)}
    samples = size * 160
    frames = size if name == "speech_to_text" else samples
    shape = (rows, size, 16) if name == "speech_to_text" else (rows, samples)
    limits = np.array([length * frames // size for length in lengths])[:, None]
    mask = (np.arange(frames) < limits).astype(np.int64)
    values = rng.standard_normal(shape, np.float32)
    values *= mask[:, :, None] if values.ndim == 3 else mask
    return {SOUNDS[name]: values, "attention_mask": mask}


class Generation:
    """Encoder once, then the decoder in chunks of any size; written for these tests alone."""

    def __init__(self, folder, given):
        encoder = OnnxSession(folder / "onnx" / "encoder_model.onnx")
        self.decoder = OnnxSession(folder / "onnx" / "decoder_model_merged.onnx")
        made = encoder.run(given)
        rows = next(iter(given.values())).shape[0]
        self.fed = {}
        for spec in self.decoder.inputs:
            if ".encoder." in spec.name:
                self.fed[spec.name] = made[spec.name.replace("past_key_values", "present")]
            elif ".decoder." in spec.name:
                shape = [rows, *(0 if isinstance(size, str) else size for size in spec.axes[1:])]
                self.fed[spec.name] = np.zeros(shape, np.float32)
            elif spec.name == "encoder_attention_mask":
                self.fed[spec.name] = made.get(spec.name, given.get("attention_mask"))

    def feed(self, tokens):
        found = self.decoder.run({**self.fed, "input_ids": tokens})
        for name in self.fed:
            if ".decoder." in name:
                self.fed[name] = found[name.replace("past_key_values", "present")]
        return found["logits"]


def test_everything_is_verified(pair):
    conversion = pair[3]
    assert conversion.passed
    assert [component.name for component in conversion.manifest.components] == ["encoder_model", "decoder_model_merged"]
    checks = [case.name for case in conversion.manifest.components[1].verification.cases]
    assert any("greedy" in check for check in checks), checks


@pytest.mark.parametrize(("rows", "size"), [(1, 60), (3, 43)])
def test_logits_in_chunks_are_those_of_the_model(pair, rows, size):
    name, model, folder, _ = pair
    given = inputs_of(name, rows, size)
    tokens = np.random.default_rng(size).integers(5, VOCABULARY, (rows, 11))
    with torch.no_grad():
        wanted = model(
            **{key: torch.from_numpy(value) for key, value in given.items()},
            decoder_input_ids=torch.from_numpy(tokens),
        ).logits.numpy()
    generation = Generation(folder, given)
    found = np.concatenate([generation.feed(tokens[:, first:last]) for first, last in ((0, 4), (4, 5), (5, 11))], 1)
    assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()


def test_greedy_tokens_are_those_of_generate(pair):
    name, model, folder, _ = pair
    given = inputs_of(name, 2, 51)
    start = torch.full((2, 1), model.config.decoder_start_token_id)
    settings = transformers.GenerationConfig(
        max_new_tokens=24, eos_token_id=None, pad_token_id=1, decoder_start_token_id=int(start[0, 0])
    )
    with torch.no_grad():
        wanted = transformers.GenerationMixin.generate(
            model, **{key: torch.from_numpy(value) for key, value in given.items()}, generation_config=settings,
            decoder_input_ids=start,
        )[:, 1:].numpy()  # fmt: skip
    generation, tokens, found = Generation(folder, given), start.numpy(), []
    for _ in range(wanted.shape[1]):
        tokens = generation.feed(tokens)[:, -1:].argmax(-1)
        found.append(tokens)
    assert np.concatenate(found, 1).tolist() == wanted.tolist()
    assert len(np.unique(wanted)) > 2  # else one token for ever would pass


@pytest.mark.parametrize("beams", [1, 3])
def test_the_run_time_writes_what_generate_writes(pair, beams):
    name, model, folder, _ = pair
    given = {key: torch.from_numpy(value) for key, value in inputs_of(name, 3, 47).items()}
    settings = {"max_new_tokens": 15, "num_beams": beams, "num_return_sequences": beams, "no_repeat_ngram_size": 3}
    with torch.no_grad():
        wanted = transformers.GenerationMixin.generate(model, **given, **settings)
    found = load_onnx_model(folder).generate(**given, **settings)
    assert found.tolist() == wanted.tolist()


def test_pipelines_of_the_folder_and_of_the_checkpoint_agree(pair):
    name, _, folder, _ = pair
    rng = np.random.default_rng(5)
    if name == "trocr":
        given = Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8))
    elif name in SOUNDS:
        given = {"raw": rng.standard_normal(16_000, np.float32), "sampling_rate": 16_000}
    else:
        given = "Paris is a city by the water"
    task = TASKS.get(name, "text2text-generation")
    if name == "whisper":
        pytest.skip("its tiny tokenizer is not the one that the pipeline asks for")
    source, found = (
        # A copy: the pipeline of speech empties what it is given.
        pipeline(task, model=str(place))(dict(given) if isinstance(given, dict) else given, max_new_tokens=12)
        for place in (folder.parent / "m", folder)
    )
    assert found == source


def test_weights_are_stored_once(pair):
    _, model, folder, _ = pair
    stored = sum(file.stat().st_size for file in (folder / "onnx").iterdir() if file.suffix != ".json")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    graphs = 1.2e6  # two graphs of some hundred nodes, and tables that are no parameters
    assert stored <= weights + graphs
    table = 4 * 32 * VOCABULARY
    decoder = folder / "onnx" / "decoder_model_merged.onnx"
    if isinstance(model.get_encoder(), torch.nn.Module) and "input_ids" in model.get_encoder().main_input_name:
        assert not any(file.stat().st_size >= table for file in (folder / "onnx").glob(f"{decoder.name}*"))


def test_infer_shapes_tells_of_both_graphs(tmp_path):
    source = save_encoder_decoder("t5", tmp_path / "m")
    inputs, outputs, axes, sample = infer_shapes(pipeline("translation", str(source)), "pt")
    assert inputs[:3] == ["input_ids", "attention_mask", "decoder_input_ids"]
    assert axes["decoder_input_ids"] == {0: "batch_size", 1: "sequence_length"}
    assert axes["past_key_values.0.encoder.key"] == {0: "batch_size", 2: "encoder_sequence_length"}
    assert {"last_hidden_state", "logits", "present.1.encoder.value", "present.1.decoder.value"} <= set(outputs)
    assert set(inputs) <= set(sample)


def test_no_single_file_for_two_graphs(tmp_path):
    source = save_encoder_decoder("t5", tmp_path / "m")
    with pytest.raises(UsageError, match="encoder"):
        convert(None, source, tmp_path / "out" / "model.onnx")
    assert not (tmp_path / "out").exists()


def test_images_in_the_sequence_of_the_text_are_refused(tmp_path):
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "image_size": 32,
                       "patch_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4},
        text_config={"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "vocab_size": 300,
                     "num_hidden_layers": 2, "num_attention_heads": 4},
    )  # fmt: skip
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "m")
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path / "m")
    from tests import tiny_tokenizers

    tiny_tokenizers.roberta().save_pretrained(tmp_path / "m")
    with pytest.raises(TaskError, match="share one sequence"):
        convert(None, tmp_path / "m", tmp_path / "out", pipeline_name="image-to-text")
    assert not (tmp_path / "out").exists()
