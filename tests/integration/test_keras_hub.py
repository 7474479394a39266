"""Presets of KerasHub, with the head where there is one. A `.keras` file, and Llama, are for the sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport import convert
from onnxport.artifact.folder import read_folder
from onnxport.errors import CheckpointError
from onnxport.runtime.session import OnnxSession
from tests.sample import sampled
from tests.tiny_keras import keras

pytestmark = pytest.mark.integration
models: Any = pytest.importorskip("keras_hub").models


def _bert() -> Any:
    keras.utils.set_random_seed(0)
    return models.BertBackbone(
        vocabulary_size=99, num_layers=2, num_heads=4, hidden_dim=128, intermediate_dim=64, max_sequence_length=64
    )


def _agrees(folder: Path, model: Any, **high: int) -> None:
    """At a size that was neither traced nor verified, with padded rows."""
    rng = np.random.default_rng(1)
    inputs = {name: rng.integers(0, limit, (4, 23)).astype("int32") for name, limit in high.items()}
    mask = np.ones((4, 23), "int32")
    mask[1:, 7:] = 0
    inputs["padding_mask"] = mask
    found = OnnxSession(folder / "onnx" / "model.onnx").run(inputs)
    wanted = model(inputs, training=False)
    wanted = wanted if isinstance(wanted, dict) else dict.fromkeys(found, wanted)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], np.asarray(array), atol=2e-5)


@pytest.mark.sweep
def test_a_task_has_its_head(tmp_path: Path) -> None:
    model = models.BertTextClassifier(backbone=_bert(), num_classes=3, preprocessor=None)
    model.save_to_preset(str(tmp_path / "preset"))
    conversion = convert(None, tmp_path / "preset", tmp_path / "out")
    assert conversion.manifest.architecture == "BertTextClassifier"
    assert "keras_hub" in conversion.manifest.versions
    (output,) = read_folder(tmp_path / "out").components[0].outputs
    assert output.axes == ("batch_size", 3)
    _agrees(tmp_path / "out", model, token_ids=99, segment_ids=2)


@pytest.mark.parametrize("as_file", sampled([False, True], False))
def test_a_backbone(tmp_path: Path, as_file: bool) -> None:
    model = _bert()
    source = tmp_path / ("model.keras" if as_file else "preset")
    (model.save if as_file else model.save_to_preset)(str(source))
    convert(None, source, tmp_path / "out")
    _agrees(tmp_path / "out", model, token_ids=99, segment_ids=2)


@pytest.mark.parametrize("name", sampled(["llama", "gemma"]))
def test_decoders(tmp_path: Path, name: str) -> None:
    keras.utils.set_random_seed(0)
    sizes = {"vocabulary_size": 99, "num_layers": 2, "num_query_heads": 4, "hidden_dim": 64, "intermediate_dim": 64}
    if name == "llama":
        model = models.LlamaBackbone(num_key_value_heads=2, **sizes)
    else:
        model = models.GemmaBackbone(num_key_value_heads=1, head_dim=8, **sizes)
    convert(None, model, tmp_path / name)
    _agrees(tmp_path / name, model, token_ids=99)


def test_a_task_that_is_not_known_and_weights_that_are_missing(tmp_path: Path) -> None:
    model = models.BertTextClassifier(backbone=_bert(), num_classes=3, preprocessor=None)
    model.save_to_preset(str(tmp_path / "preset"))
    task = tmp_path / "preset" / "task.json"
    task.write_text(json.dumps(json.loads(task.read_text()) | {"class_name": "os"}))
    with pytest.raises(CheckpointError, match="does not know"):
        convert(None, tmp_path / "preset", tmp_path / "out")
    for file in (tmp_path / "preset").glob("*.h5"):
        file.unlink()
    with pytest.raises(CheckpointError, match="without weights"):
        convert(None, tmp_path / "preset", tmp_path / "out")
    assert not (tmp_path / "out").exists()
