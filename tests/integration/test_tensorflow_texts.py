"""TF classes that read texts: their graphs against numbers of TensorFlow itself.

`make test` has one without a head, heads whose inputs or outputs have other axes, and a tokenizer of another family.
The other heads and architectures are for the sweep.
"""

from __future__ import annotations

import pytest

import onnxport
from tests.integration.hf_tensorflow import Converted, needs_tensorflow
from tests.once import Once
from tests.sample import sampled
from tests.unit.cli_runner import run

pytestmark = [pytest.mark.integration, needs_tensorflow]
TASKS = {
    "bert": "auto", "bert-fill-mask": "auto", "bert-ner": "ner", "bert-sentiment": "sentiment-analysis",
    "bert-qa": "question-answering", "bert-choice": "multiple-choice", "bert-next": "auto", "distilbert": "auto",
    "roberta": "fill-mask", "electra": "auto", "albert": "auto",
}  # fmt: skip
KEPT = ("bert", "bert-ner", "bert-choice", "distilbert")


@pytest.fixture(scope="module")
def converted(once: Once) -> Converted:
    return Converted(once, "tensorflow-texts", TASKS, KEPT)


@pytest.mark.parametrize("name", sampled(TASKS, *KEPT))
def test_numbers_are_tensorflows_at_sizes_that_were_not_traced(converted: Converted, name: str) -> None:
    converted.require_reference_numbers(name)
    assert converted.manifest(name).framework == "tf"


def test_axes_have_names_and_are_free(converted: Converted) -> None:
    axes = converted.axes("bert-ner")
    assert axes["input_ids"] == ("batch_size", "sequence_length")
    assert axes["logits"] == ("batch_size", "sequence_length", 5)
    assert converted.axes("bert-choice")["input_ids"] == ("batch_size", "num_choices", "sequence_length")
    assert converted.axes("bert")["pooler_output"] == ("batch_size", 32)


def test_labels_and_tokenizer_come_along(converted: Converted) -> None:
    found = onnxport.pipeline("ner", converted.path("bert-ner"))("Ada lives in London.")
    assert {entry["entity"] for entry in found} <= {"O", "B-PER", "I-PER", "B-LOC", "I-LOC"}
    folder = converted.path("distilbert")
    assert (folder / "tokenizer.json").is_file() and (folder / "README.md").is_file()
    assert onnxport.pipeline(model=folder)("I love it.")[0]["label"] in ("negative", "neutral", "positive")


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("bert", ["A text."]),
        pytest.param("bert-fill-mask", ["paris is the [MASK] of france."], marks=pytest.mark.sweep),
        ("bert-ner", ["Ada."]),
        pytest.param("bert-qa", ["Who wrote it?", "Ada wrote it."], marks=pytest.mark.sweep),
        ("bert-choice", ["It rains.", "I get wet.", "I fly."]),
    ],
)
def test_run(converted: Converted, capsys: pytest.CaptureFixture[str], name: str, texts: list[str]) -> None:
    outcome = run(capsys, "run", converted.path(name), *texts)
    assert outcome.code == 0, outcome.err
    assert outcome.out
