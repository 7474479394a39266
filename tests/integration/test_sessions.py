"""Pipelines in several threads, on a provider, and closed; what many calls leave behind."""

from __future__ import annotations

import gc
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from onnxport import pipeline
from onnxport.cli.main import main
from onnxport.errors import UsageError
from onnxport.runtime.execution import PROVIDERS, running_on
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import TextGenerator
from onnxport.system.memory import resident_bytes

pytestmark = pytest.mark.integration

TEXTS = [" ".join(["the river of stone", "seven", "Paris is a city"][: 1 + n % 3]) for n in range(24)]


@pytest.fixture(scope="module")
def classifier(converted):
    return converted("bert-text-classification").folder


@pytest.fixture(scope="module")
def writer(converted):
    return converted("llama", {"tokenizer": "modernbert"}).folder


def scores(answers):
    return np.array([[label["score"] for label in answer] for answer in answers])


def test_eight_threads_get_what_one_gets(classifier, writer):
    with pipeline(model=str(classifier)) as classify, TextGenerator(writer) as write:
        # Settings differ from call to call: truncation is a state of the tokenizer.
        asked = [({"truncation": True, "max_length": 5} if n % 2 else {}, text) for n, text in enumerate(TEXTS * 4)]
        wanted = [classify(text, top_k=None, **settings) for settings, text in asked]
        texts = [write(text, max_new_tokens=6) for text in TEXTS]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda one: classify(one[1], top_k=None, **one[0]), asked))
            written = list(threads.map(lambda text: write(text, max_new_tokens=6), TEXTS))
    assert np.array_equal(scores(found), scores(wanted))
    assert written == texts and len(set(texts)) > 2


def test_a_closed_pipeline_is_refused(classifier, writer):
    with pipeline(model=str(classifier)) as classify:
        session = classify.sessions[0]
    with pytest.raises(UsageError) as error:
        classify("a text")
    assert "closed" in error.value.message
    with pytest.raises(UsageError):
        _ = session.raw
    generator = TextGenerator(writer)
    generator.close()
    with pytest.raises(UsageError):
        generator("a text")


def test_providers_and_threads(classifier, capsys):
    lacks = next(name for name in PROVIDERS if f"{name}ExecutionProvider" not in onnxruntime.get_available_providers())
    for call in (
        lambda: pipeline(model=str(classifier), provider=lacks),
        lambda: OnnxSession(classifier, provider=lacks.lower()),
    ):
        with pytest.raises(UsageError) as error:
            call()
        assert lacks in error.value.message and "it has CPU" in error.value.message
    with pytest.raises(UsageError) as error:
        OnnxSession(classifier, provider="CDUA")
    assert "CUDA" in error.value.hint
    with pytest.raises(UsageError):
        pipeline(model=str(classifier), threads=0)
    with pipeline(model=str(classifier), threads=1, provider="cpu") as classify, running_on(threads=2):
        assert classify.sessions[0].raw.get_session_options().intra_op_num_threads == 1
        with OnnxSession(classifier) as session:
            assert session.raw.get_session_options().intra_op_num_threads == 2
    assert main(["run", str(classifier), "a text", "--provider", lacks, "--json"]) == 2
    assert lacks in json.loads(capsys.readouterr().out)["error"]["message"]
    assert main(["run", str(classifier), "a text", "--provider", "CPU", "--threads", "1"]) == 0


@pytest.mark.sweep
def test_many_calls_leave_nothing_behind(classifier, writer):
    with pipeline(model=str(classifier), threads=1) as classify, TextGenerator(writer, threads=1) as write:

        def some(count):
            for number in range(count):
                classify(TEXTS[number % len(TEXTS)])
                if number % 20 == 0:
                    write(TEXTS[number % len(TEXTS)], max_new_tokens=4)
            gc.collect()
            return resident_bytes()

        some(2_000)  # buffers and caches of the libraries
        before = some(2_000)
        assert some(20_000) - before < 2e6


@pytest.mark.sweep
def test_opening_and_closing_leaves_nothing_behind(classifier):
    def some(count):
        for _ in range(count):
            with pipeline(model=str(classifier), threads=1) as classify:
                classify("seven")
        gc.collect()
        return resident_bytes()

    some(30)
    assert some(60) - some(30) < 5e6
