"""Converted folders in transformers' pipelines, on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from onnxport.artifact.folder import write_manifest  # noqa: E402
from onnxport.artifact.manifest import Component, Manifest  # noqa: E402
from onnxport.errors import FolderError, UsageError  # noqa: E402
from onnxport.pipelines.factory import pipeline  # noqa: E402
from onnxport.specs import TensorSpec  # noqa: E402
from tests.integration.small_models import TEXT, bert_config, save  # noqa: E402

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, folder converted from it) of a text classifier."""
    checkpoint = save(tmp_path_factory.mktemp("source"), "BertForSequenceClassification", bert_config(num_labels=3))
    folder = tmp_path_factory.mktemp("converted")
    (folder / "onnx").mkdir()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    sample = {name: torch.ones(2, 5, dtype=torch.int64) for name in names}
    axes = {0: "batch_size", 1: "sequence_length"}
    program = torch.onnx.export(
        model, (), kwargs=sample, dynamo=True, dynamic_shapes=dict.fromkeys(names, axes), output_names=["logits"],
        verbose=False,
    )  # fmt: skip
    program.save(folder / "onnx" / "model.onnx")
    inputs = tuple(TensorSpec(name, "int64", ("batch_size", "sequence_length")) for name in names)
    component = Component(
        "model", "onnx/model.onnx", 18, "float32", 1, inputs, (TensorSpec("logits", "float32", ("batch_size", 3)),)
    )
    for file in checkpoint.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    write_manifest(
        folder, Manifest("text-classification", "pt", "source", "BertForSequenceClassification", {}, (component,))
    )
    return checkpoint, folder


def test_converted_folder_in_a_pipeline(converted: tuple[Path, Path]) -> None:
    checkpoint, folder = converted
    original, ours = pipeline(model=checkpoint), pipeline(model=folder)
    assert ours.task == "text-classification"
    for text in ("Ada wrote it.", TEXT[:70]):
        expected, answer = (nlp(text, top_k=None) for nlp in (original, ours))
        assert [item["label"] for item in answer] == [item["label"] for item in expected]
        np.testing.assert_allclose([i["score"] for i in answer], [i["score"] for i in expected], rtol=1e-4)


def test_inputs_that_are_left_out(converted: tuple[Path, Path]) -> None:
    from onnxport.pipelines.onnx.model import OnnxModel

    checkpoint, folder = converted
    model = OnnxModel(folder, threads=1)
    ids = torch.tensor([[2, 7, 9, 3]], dtype=torch.int32)
    source = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint)
    with torch.no_grad():
        expected = source(input_ids=ids).logits
    np.testing.assert_allclose(model(input_ids=ids, labels=None).logits.numpy(), expected.numpy(), atol=1e-5)
    with pytest.raises(UsageError, match="'input_ids' of the graph is missing"):
        model(attention_mask=ids)


def test_folder_that_cannot_be_run(converted: tuple[Path, Path], tmp_path: Path) -> None:
    from onnxport.pipelines.onnx.model import OnnxModel

    with pytest.raises(FolderError, match="no component 'model_fp16'"):
        OnnxModel(converted[1], "model_fp16")
    (tmp_path / "onnxport.json").write_text("{}")
    with pytest.raises(FolderError):
        pipeline(model=tmp_path)
