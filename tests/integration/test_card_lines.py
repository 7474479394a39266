"""The lines of the model card for run times that may not be installed: skipped where they are not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxport import pipeline

pytestmark = pytest.mark.integration
TEXTS = ["the river of stone", "seven", "Paris is a city by the water and the garden"]


@pytest.mark.parametrize(("package", "encode"), [("sentence_transformers", "encode"), ("fastembed", "embed")])
def test_sentence_embeddings(converted, tmp_path, monkeypatch, package, encode):
    pytest.importorskip(package)
    folder = converted("sentence-bert").copy(tmp_path / "out")
    card = (folder / "README.md").read_text()
    [lines] = re.findall(rf"^```python\n([^`]*from {package} [^`]*)```", card, re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    scope: dict = {}
    exec(lines, scope)
    found = np.stack(list(getattr(scope["model"], encode)(TEXTS)))
    np.testing.assert_allclose(found, pipeline(model=str(folder)).encode(TEXTS), atol=1e-6)
