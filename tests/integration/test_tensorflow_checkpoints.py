"""What is found and loaded of checkpoints with TF weights, and what is refused, with nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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


OPSETS = (13, 21)
REFUSED = ("cut", "other", "garbled", "pickled")


@pytest.fixture(scope="module")
def made(once: Once) -> tuple[Path, dict[str, dict[str, Any]]]:
    """(a folder, the results of all calls of this file by name)

    The checkpoints are "bert-ner" (tf_model.h5), "bert-fill-mask" (safetensors that TensorFlow wrote) and "torch".
    """
    source = plain_checkpoints(once)

    def make(root: Path) -> dict[str, dict[str, Any]]:
        for kind in REFUSED:
            shutil.copytree(source / "bert-ner", root / kind)
        whole = (source / "bert-ner" / "tf_model.h5").read_bytes()
        (root / "cut" / "tf_model.h5").write_bytes(whole[:20_000])
        (root / "other" / "tf_model.h5").write_bytes(b"these are no weights at all")
        (root / "garbled" / "tf_model.h5").write_bytes(whole[:96] + b"U" * (len(whole) - 96))
        (root / "pickled" / "tf_model.h5").rename(root / "pickled" / "pytorch_model.bin")
        ner, fill_mask, nowhere = source / "bert-ner", source / "bert-fill-mask", root / "refused" / "output"
        calls: dict[str, dict[str, Any]] = {
            **{kind: {"model": root / kind, "output": nowhere, "framework": "tf"} for kind in REFUSED},
            "head": {"model": fill_mask, "output": nowhere, "pipeline_name": "ner"},
            "task": {"model": ner, "output": nowhere, "pipeline_name": "object-detection"},
            "opset": {"model": ner, "output": nowhere, "opset": 12},
            "torch": {"model": save("bert-token-classification", root / "torch"), "output": root / "from-torch",
                      "framework": "tf"},
        }  # fmt: skip
        return dict(zip(calls, call(*calls.values()), strict=True))

    return once("tensorflow-calls", make)


@pytest.fixture(scope="module")
def further(once: Once) -> tuple[Path, dict[str, dict[str, Any]]]:
    """As `made`: conversions that lose a head or have a random one, another opset, and what is verified with them."""
    source = plain_checkpoints(once)
    ner, fill_mask = source / "bert-ner", source / "bert-fill-mask"

    def make(root: Path) -> dict[str, dict[str, Any]]:
        calls: dict[str, dict[str, Any]] = {
            "features": {"model": fill_mask, "output": root / "features", "pipeline_name": "feature-extraction"},
            "random": {"model": fill_mask, "output": root / "random", "pipeline_name": "ner",
                       "allow_missing_weights": True},
            **{str(opset): {"model": ner, "output": root / str(opset), "opset": opset} for opset in OPSETS},
            "same": {"path": root / "21", "against": ner},
            "another": {"path": root / "21", "against": fill_mask},
        }  # fmt: skip
        return dict(zip(calls, call(*calls.values()), strict=True))

    return once("tensorflow-further-calls", make)


def test_what_is_refused(made: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    root, found = made
    words = {
        "cut": "is cut off: 20000 of", "other": "is no HDF5 file", "garbled": "cannot be read as HDF5",
        "pickled": "only pickled ones", "head": "classifier/kernel:0 would be random",
        "task": "cannot do object-detection", "opset": "Opset 12 is not supported",
    }  # fmt: skip
    messages = {name: found[name].get("message", "") for name in words}
    assert all(part in messages[name] for name, part in words.items()), messages
    assert all("Nothing was written" in message for message in messages.values())
    assert "--framework pt" in found["pickled"]["hint"] and "fill-mask" in found["head"]["hint"]
    assert not (root / "refused").exists()


@pytest.mark.sweep
def test_missing_weights_that_an_output_does_not_need_are_left_out_with_it(
    further: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    root, found = further
    assert [spec.name for spec in read_folder(root / "features").components[0].outputs] == ["last_hidden_state"]
    assert any(note.startswith("pooler_output was left out") for note in found["features"]["notes"])
    assert found["random"]["passed"]
    assert any(note.startswith("Random, because") for note in found["random"]["notes"])


def test_weights_of_pytorch_in_a_tf_class_give_pytorchs_numbers(made: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    root, results = made
    assert results["torch"]["passed"] and any("PyTorch" in note for note in results["torch"]["notes"])
    ids = np.random.default_rng(0).integers(5, 90, (4, 13))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with torch.no_grad():
        reference = transformers.AutoModelForTokenClassification.from_pretrained(root / "torch")(
            **{name: torch.from_numpy(value) for name, value in given.items()}
        ).logits.numpy()
    found = OnnxSession(root / "from-torch" / "onnx" / "model.onnx").run(given)["logits"]
    np.testing.assert_allclose(found, reference, atol=TOLERANCE)


@pytest.mark.sweep
def test_opsets_and_verify_against(further: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    root, found = further
    assert all(found[str(opset)].get("passed") for opset in OPSETS), found
    assert [read_folder(root / str(opset)).components[0].opset for opset in OPSETS] == list(OPSETS)
    assert found["same"] == {"passed": True}
    assert found["another"]["error"] == "CheckpointError"  # it has no head for the task
