"""Folders in transformers.js in a browser, on WASM: every dtype that is written loads there, and is right.

Needs Chromium, `npm install --ignore-scripts @huggingface/transformers` in any folder, and ONNXPORT_NODE_MODULES set to
its node_modules.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from onnxport import quantize
from onnxport.artifact.card_calls import javascript_dtype
from onnxport.artifact.folder import open_folder
from onnxport.runtime.pipeline import open_pipeline
from onnxport.runtime.text_generation import TextGenerator
from tests import browser
from tests.transformers_js_page import JavaScriptPage

MODULES = os.environ.get("ONNXPORT_NODE_MODULES", "")
pytestmark = pytest.mark.integration
in_browser = pytest.mark.skipif(
    browser.program() is None or not MODULES or not (Path(MODULES) / "@huggingface" / "transformers").is_dir(),
    reason="needs Chromium, and ONNXPORT_NODE_MODULES: a node_modules folder with @huggingface/transformers",
)
TEXTS = ["the river of stone", "seven", "Paris is a city by the water"]
PRECISIONS = ("int8", "uint8", "int4", "int8-weights", "fp16", "q4f16", "bnb4")
DTYPES = {"fp32", "q8", "uint8", "q4", "int8", "fp16", "q4f16", "bnb4"}


@pytest.fixture(scope="module")
def rounded(converted, once):
    """Called with a name: a folder with a graph of every precision."""

    def of(name, options):
        def make(root):
            converted(name, options).copy(root / name)
            for precision in PRECISIONS:
                quantize(root / name, precision=precision)

        return once(f"rounded-{name}", make)[0] / name

    return of


def dtypes(folder):
    """dtype -> name of the main graph."""
    found = {}
    for part in open_folder(folder).manifest.components:
        if javascript_dtype(part.file) is not None:
            found[javascript_dtype(part.file)] = part.name
    return found


@in_browser
def test_embeddings_of_every_dtype(rounded):
    folder = rounded("sentence-bert", {})
    known = dtypes(folder)
    assert set(known) == DTYPES
    settings = {"pooling": "mean", "normalize": True}  # as this checkpoint
    with JavaScriptPage(Path(MODULES), {"sentence-bert": folder}) as page:
        for dtype, name in known.items():
            with open_pipeline(folder, component=name) as embed:
                wanted = embed.encode(TEXTS)
            for text, vector in zip(TEXTS, wanted, strict=True):
                found = np.array(page.ask("feature-extraction", "sentence-bert", text, options(dtype), settings))[0]
                assert cosine(found, vector) > (1 - 1e-5 if dtype == "fp32" else 0.999), dtype


@in_browser
@pytest.mark.sweep
def test_texts_of_every_dtype(rounded):
    folder = rounded("llama", {"tokenizer": "modernbert"})
    known = dtypes(folder)
    assert set(known) == DTYPES
    with JavaScriptPage(Path(MODULES), {"llama": folder}) as page:
        for dtype, name in known.items():
            # Kernels round activations of 8 bits differently, and a random model amplifies that from token to token.
            count = 8 if dtype == "fp32" else 1
            with TextGenerator(folder, name) as write:
                wanted = [write(text, max_new_tokens=count) for text in TEXTS]
            # It adds special tokens to a prompt only where the tokenizer asks for them in its own way.
            given = {"max_new_tokens": count, "do_sample": False, "return_full_text": False, "add_special_tokens": True}
            found = [page.ask("text-generation", "llama", text, options(dtype), given) for text in TEXTS]
            assert [answer[0]["generated_text"] for answer in found] == wanted, dtype


def options(dtype):
    """config.json says which one it is where none is given."""
    return {} if dtype == "fp32" else {"dtype": dtype}


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
