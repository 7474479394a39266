"""What is found and loaded of checkpoints with TF weights, and what is refused, with nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from onnxport.artifact.folder import read_folder
from onnxport.runtime.session import OnnxSession
from tests.integration.hf_tensorflow import TOLERANCE, call, needs_tensorflow, plain_checkpoints
from tests.once import Once
from tests.tiny import save

pytestmark = [pytest.mark.integration, needs_tensorflow]


@pytest.fixture(scope="module")
def source(once: Once) -> Path:
    """Two checkpoints: "bert-ner" (tf_model.h5) and "bert-fill-mask" (safetensors that TensorFlow wrote)."""
    return plain_checkpoints(once)


def test_what_is_refused(source: Path, tmp_path: Path) -> None:
    kinds = ("cut", "other", "garbled", "pickled")
    for kind in kinds:
        shutil.copytree(source / "bert-ner", tmp_path / kind)
    whole = (source / "bert-ner" / "tf_model.h5").read_bytes()
    (tmp_path / "cut" / "tf_model.h5").write_bytes(whole[:20_000])
    (tmp_path / "other" / "tf_model.h5").write_bytes(b"these are no weights at all")
    (tmp_path / "garbled" / "tf_model.h5").write_bytes(whole[:96] + b"U" * (len(whole) - 96))
    (tmp_path / "pickled" / "tf_model.h5").rename(tmp_path / "pickled" / "pytorch_model.bin")
    output = tmp_path / "output"
    calls = [{"model": tmp_path / kind, "output": output, "framework": "tf"} for kind in kinds]
    calls.append({"model": source / "bert-fill-mask", "output": output, "pipeline_name": "ner"})
    calls.append({"model": source / "bert-ner", "output": output, "pipeline_name": "object-detection"})
    calls.append({"model": source / "bert-ner", "output": output, "opset": 12})
    found = call(*calls)
    messages = [result.get("message", "") for result in found]
    assert all(part in message for part, message in zip(
        ("is cut off: 20000 of", "is no HDF5 file", "cannot be read as HDF5", "only pickled ones",
         "classifier/kernel:0 would be random", "cannot do object-detection", "Opset 12 is not supported"),
        messages, strict=True,
    )), messages  # fmt: skip
    assert all("Nothing was written" in message for message in messages)
    assert "--framework pt" in found[3]["hint"] and "fill-mask" in found[4]["hint"]
    assert not output.exists() and not list(tmp_path.glob(".output*"))


def test_missing_weights_that_an_output_does_not_need_are_left_out_with_it(source: Path, tmp_path: Path) -> None:
    kept, random = call(
        {"model": source / "bert-fill-mask", "output": tmp_path / "a", "pipeline_name": "feature-extraction"},
        {"model": source / "bert-fill-mask", "output": tmp_path / "b", "pipeline_name": "ner",
         "allow_missing_weights": True},
    )  # fmt: skip
    assert [spec.name for spec in read_folder(tmp_path / "a").components[0].outputs] == ["last_hidden_state"]
    assert any(note.startswith("pooler_output was left out") for note in kept["notes"])
    assert random["passed"] and any(note.startswith("Random, because") for note in random["notes"])


def test_weights_of_pytorch_in_a_tf_class_give_pytorchs_numbers(tmp_path: Path) -> None:
    model = save("bert-token-classification", tmp_path / "model")
    (result,) = call({"model": model, "output": tmp_path / "output", "framework": "tf"})
    assert result["passed"] and any("PyTorch" in note for note in result["notes"])
    ids = np.random.default_rng(0).integers(5, 90, (4, 13))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with torch.no_grad():
        reference = transformers.AutoModelForTokenClassification.from_pretrained(model)(
            **{name: torch.from_numpy(value) for name, value in given.items()}
        ).logits.numpy()
    found = OnnxSession(tmp_path / "output" / "onnx" / "model.onnx").run(given)["logits"]
    np.testing.assert_allclose(found, reference, atol=TOLERANCE)


def test_opsets_and_verify_against(source: Path, tmp_path: Path) -> None:
    opsets = (13, 17, 21)
    calls = [{"model": source / "bert-ner", "output": tmp_path / str(opset), "opset": opset} for opset in opsets]
    against = [{"path": tmp_path / "21", "against": source / name} for name in ("bert-ner", "bert-fill-mask")]
    *converted, same, other = call(*calls, *against)
    assert all(result.get("passed") for result in converted), converted
    assert [read_folder(tmp_path / str(opset)).components[0].opset for opset in opsets] == list(opsets)
    assert same == {"passed": True}
    assert other["error"] == "CheckpointError"  # it has no head for the task
