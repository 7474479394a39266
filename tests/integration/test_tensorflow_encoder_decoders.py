"""TF encoder-decoders: two graphs as those of PyTorch, texts as those of TensorFlow's own `generate`.

BART and Marian, which read text as T5 does, are for the sweep.
"""

from __future__ import annotations

import pytest

import onnxport
from onnxport.runtime.sequence_generation import TextToTextGenerator
from tests.integration.hf_tensorflow import Converted, needs_tensorflow
from tests.once import Once
from tests.sample import sampled
from tests.unit.cli_runner import run

pytestmark = [pytest.mark.integration, needs_tensorflow, pytest.mark.sweep]
NAMES = ("t5", "bart", "marian", "whisper")
KEPT = ("t5",)
TEXTS = NAMES[:3]
TASKS = {"t5": "translation", "bart": "summarization", "marian": "translation", "whisper": "auto"}


@pytest.fixture(scope="module")
def converted(once: Once) -> Converted:
    return Converted(once, "tensorflow-encoder-decoders", TASKS, KEPT)


@pytest.mark.parametrize("name", sampled(TEXTS, "t5"))
def test_greedy_text_is_tensorflows(converted: Converted, name: str) -> None:
    recorded = converted.reference(name)
    texts = TextToTextGenerator(converted.path(name))([str(recorded["prompt"])], max_new_tokens=12, num_beams=1)
    assert texts == [str(recorded["text"])]


@pytest.mark.parametrize("name", sampled(NAMES, *KEPT))
def test_the_decoder_begins_with_what_the_encoder_made(converted: Converted, name: str) -> None:
    encoder, decoder = converted.manifest(name).components
    assert (encoder.name, decoder.name) == ("encoder_model", "decoder_model_merged")
    made = {spec.name.replace("present.", "past_key_values.") for spec in encoder.outputs[1:]}
    assert made == {spec.name for spec in decoder.inputs if ".encoder." in spec.name}
    for component in (encoder, decoder):
        assert not {"If", "Loop"} & component.operators.keys()
    own = converted.axes(name, 1)
    assert own["past_key_values.0.decoder.key"] == ("batch_size", 4, "past_sequence_length", 8)
    assert own["present.0.decoder.key"] == ("batch_size", 4, "past_sequence_length + sequence_length", 8)


@pytest.mark.sweep
def test_encoder_numbers_are_tensorflows(converted: Converted) -> None:
    converted.require_reference_numbers("whisper", "encoder_model")


@pytest.mark.sweep
def test_a_table_that_both_read_is_stored_once(converted: Converted) -> None:
    folder = converted.path("bart") / "onnx"
    encoder, decoder = (part.parameters for part in converted.manifest("bart").components)
    table = 381 * 32
    both = sum(file.stat().st_size for file in folder.iterdir())
    graphs = sum((folder / f"{name}.onnx").stat().st_size for name in ("encoder_model", "decoder_model_merged"))
    if (folder / "encoder_model.onnx_data").is_file():
        assert both - graphs < 4 * (encoder + decoder - table // 2)


def test_pipeline_and_run(converted: Converted, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = converted.reference("t5")
    prompt, text = str(recorded["prompt"]), str(recorded["text"])
    nlp = onnxport.pipeline("translation", converted.path("t5"))
    assert nlp(prompt, max_new_tokens=12, num_beams=1) == [{"translation_text": text}]
    outcome = run(capsys, "run", converted.path("t5"), prompt, "--set", "max_new_tokens=12")
    assert outcome.code == 0 and outcome.out
