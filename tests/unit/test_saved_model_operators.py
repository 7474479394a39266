"""Which SavedModels are refused: by their operators, before TensorFlow is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxport.checkpoints.saved_model import known_operators, reaching_operators
from onnxport.checkpoints.tensorflow_files import find_tensorflow_files
from onnxport.errors import CheckpointError, UntrustedCheckpointError
from tests.attacks import saved_models

# Operators of TensorFlow Text, which are there once another test has imported it.
_TEXT = ("Regex", "Sentencepiece", "Wordpiece")


@pytest.mark.parametrize("name", saved_models.SOUND)
def test_what_tensorflow_writes_is_accepted(name: str) -> None:
    assert reaching_operators(saved_models.SOUND[name]) == []


@pytest.mark.parametrize("name", saved_models.BAD)
def test_what_reaches_out_of_the_model_is_refused(name: str, tmp_path: Path) -> None:
    operator, content = saved_models.BAD[name]
    found = reaching_operators(content)
    assert any(operator in one for one in found), found
    folder = saved_models.write(tmp_path / "m", content)
    with pytest.raises(UntrustedCheckpointError) as caught:
        find_tensorflow_files(folder)
    assert operator in str(caught.value) and "--trust-remote-code" in str(caught.value)
    assert find_tensorflow_files(folder, trust_remote_code=True) is not None


@pytest.mark.parametrize("content", [b"\xff" * 30, b"\x12\x40", bytes(20)])
def test_damage_is_said_to_be_damage(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        find_tensorflow_files(saved_models.write(tmp_path / "m", content))


def test_attributes_that_are_nested_without_end() -> None:
    attribute = saved_models.function_attribute("f")
    for _ in range(3000):
        attribute = saved_models.field_bytes(
            10, saved_models.text(1, "f") + saved_models.field_bytes(
                2, saved_models.text(1, "a") + saved_models.field_bytes(2, attribute)
            )
        )  # fmt: skip
    with pytest.raises(ValueError, match="nested"):
        reaching_operators(saved_models.saved_model(saved_models.node("n", "NoOp", a=attribute)))


@pytest.mark.slow
def test_the_list_against_the_installed_tensorflow_and_tf2onnx() -> None:
    tf = pytest.importorskip("tensorflow")
    from tensorflow.python.framework import op_def_registry
    from tf2onnx.handler import tf_op

    assert tf.__version__
    known = known_operators()
    unknown = [name for name in known if op_def_registry.get(name) is None]
    assert unknown == []
    # A dict or a list of tables by version, after tf2onnx was used.
    tables = (t.values() if isinstance(t, dict) else t for t in tf_op.get_opsets().values())
    handled = {name for versions in tables for names in versions for name in names}
    registered = {name for name in handled if op_def_registry.get(name) is not None}
    # Queues and iterators, which tf2onnx skips: they hold a training run's input.
    assert {
        name for name in registered - known if not name.startswith(("FIFOQueue", "QueueDequeue", "Iterator", *_TEXT))
    } == set()
