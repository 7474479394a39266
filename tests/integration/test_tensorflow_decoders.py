"""TF decoders: one graph with its cache, whose greedy texts are those of TensorFlow's own `generate`.

GPT-J, whose cache is that of OPT without its branch, is for the sweep.
"""

from __future__ import annotations

import pytest

import onnxport
from onnxport.runtime.text_generation import TextGenerator
from tests.integration.hf_tensorflow import Converted, needs_tensorflow
from tests.once import Once
from tests.sample import sampled
from tests.unit.cli_runner import run

pytestmark = [pytest.mark.integration, needs_tensorflow]
# Keys and values stacked in one tensor; a tuple of them, and a branch on the number of tokens; rotary positions;
# one token a call.
NAMES = ("gpt2", "opt", "gptj", "ctrl")
KEPT = ("gpt2",)
STATES = "past_sequence_length + sequence_length"


@pytest.fixture(scope="module")
def converted(once: Once) -> Converted:
    return Converted(once, "tensorflow-decoders", dict.fromkeys(NAMES, "auto"), KEPT)


@pytest.mark.parametrize("name", sampled(NAMES, *KEPT))
def test_greedy_text_is_tensorflows(converted: Converted, name: str) -> None:
    recorded = converted.reference(name)
    texts = TextGenerator(converted.path(name))([str(recorded["prompt"])], max_new_tokens=12)
    assert texts == [str(recorded["text"])]


@pytest.mark.parametrize("name", sampled(["gpt2", "opt", "gptj"], "gpt2"))
def test_prefill_chunks_and_steps_are_one_graph(converted: Converted, name: str) -> None:
    axes = converted.axes(name)
    assert axes["input_ids"] == ("batch_size", "sequence_length")
    assert axes["attention_mask"] == ("batch_size", "total_sequence_length")
    assert axes["past_key_values.0.key"] == ("batch_size", 4, "past_sequence_length", 8)
    assert axes["present.1.value"] == ("batch_size", 4, STATES, 8)
    (component,) = converted.manifest(name).components
    assert "If" not in component.operators
    cases = component.verification.cases if component.verification else ()
    assert {case.sizes.get("past_sequence_length") for case in cases} > {0}
    assert any("greedy tokens, padded rows" in case.name for case in cases)


@pytest.mark.sweep
def test_a_class_that_reads_one_token_a_call(converted: Converted) -> None:
    assert converted.axes("ctrl")["input_ids"] == ("batch_size", 1)
    (restriction,) = (r for r in converted.manifest("ctrl").components[0].restrictions if r.rule.startswith("fixed"))
    assert "reads only one token of a call" in restriction.reason


def test_padded_prompts_in_a_batch_are_what_each_is_alone(converted: Converted) -> None:
    generator = TextGenerator(converted.path("gpt2"))
    prompts = ["Paris", "The cat sat on the mat. A dog"]
    assert generator(prompts, max_new_tokens=6) == [generator([one], max_new_tokens=6)[0] for one in prompts]


def test_pipeline_and_run(converted: Converted, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = converted.reference("gpt2")
    prompt, text = str(recorded["prompt"]), str(recorded["text"])
    found = onnxport.pipeline(model=converted.path("gpt2"))(prompt, max_new_tokens=12)
    assert found == [{"generated_text": prompt + text}]
    outcome = run(capsys, "run", converted.path("gpt2"), prompt, "--set", "max_new_tokens=12")
    assert outcome.code == 0 and text.strip() in outcome.out
