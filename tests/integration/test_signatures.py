"""A SavedModel with two signatures of like names: every graph gets its variants, and is judged by its own signature."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxport import convert, optimize, quantize, verify
from onnxport.artifact.folder import read_folder, write_manifest
from onnxport.errors import FolderError, VerificationError
from onnxport.runtime.session import OnnxSession
from tests import tiny_keras

pytestmark = pytest.mark.integration

NAMES = ["predict", "predict_proba"]
SIZES = {"predict_proba.batch_size": 2, "predict.batch_size": 3, "predict.sequence_length": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The SavedModel, and the folder with every variant."""
    root = tmp_path_factory.mktemp("signatures")
    module = tiny_keras.WithSignatures()
    tiny_keras.saved_model(root / "m", module, predict=module.features, predict_proba=module.back)
    convert(None, root / "m", root / "out")
    optimize(root / "out")
    quantize(root / "out", "int8")
    quantize(root / "out", "int8-weights")
    optimize(root / "out", sizes=SIZES)
    return root / "m", root / "out"


def test_every_graph_has_every_variant(made: tuple[Path, Path]) -> None:
    found = {component.name: component.derived_from for component in read_folder(made[1]).components}
    endings = ("optimized", "quantized", "int8", "fixed")
    assert found == dict.fromkeys(NAMES) | {f"{name}_{ending}": name for name in NAMES for ending in endings}
    y = np.random.default_rng(0).standard_normal((2, 160)).astype(np.float32)
    wanted = OnnxSession(made[1], "predict_proba").run({"y": y})["x"]
    for ending, tolerance in (("optimized", 1e-5), ("fixed", 1e-5), ("quantized", 0.25), ("int8", 0.05)):
        output = OnnxSession(made[1], f"predict_proba_{ending}").run({"y": y})["x"]
        assert np.abs(output - wanted).max() <= tolerance * np.abs(wanted).max(), ending


def test_each_is_compared_with_its_own_signature(made: tuple[Path, Path]) -> None:
    source, folder = made
    result = verify(folder, against=source)
    assert result.ok and len(result.verifications) == 10
    for name, verification in result.verifications.items():
        assert verification is not None
        outputs = {output.name for case in verification.cases for output in case.outputs}
        assert outputs == ({"x"} if name.startswith("predict_proba") else {"features", "sums"}), name


def _break(folder: Path, name: str) -> None:
    """One weight of a graph is wrong, of an int8 graph all; and the manifest knows the new file."""
    manifest = read_folder(folder)
    component = manifest.find(name)
    assert component is not None
    file = folder / component.file
    model = onnx.load(file)
    weight = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    numbers = onnx.numpy_helper.to_array(weight).copy()
    if numbers.dtype.kind == "f":
        numbers.reshape(-1)[7] += 3
    else:
        numbers = np.ascontiguousarray(numbers[::-1])
    weight.CopyFrom(onnx.numpy_helper.from_array(numbers, weight.name))
    file.unlink()  # it may be a hard link
    onnx.save(model, file)
    write_manifest(folder, manifest)


@pytest.mark.parametrize("name", ["predict_proba", "predict_proba_optimized", "predict_proba_quantized"])
def test_a_fault_in_the_second_graph_is_found(made: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    source, folder = made
    copy = shutil.copytree(folder, tmp_path / "out")
    _break(copy, name)
    assert verify(copy).ok  # it is whole, and runs
    with pytest.raises(VerificationError, match=rf"^{name} disagrees"):
        verify(copy, against=source)


def test_a_folder_of_version_1(made: tuple[Path, Path], tmp_path: Path) -> None:
    """0.1 did not say what was made from what; from such a folder the same variants are made."""
    source, folder = made
    copy = shutil.copytree(folder, tmp_path / "out")
    _as_version_1(copy)
    now = read_folder(folder)
    components = tuple(replace(component, ledger=None) for component in now.components)
    assert read_folder(copy) == replace(now, components=components, unused=None)
    assert verify(copy, against=source).ok
    optimize(copy)
    written: dict[str, Any] = json.loads((copy / "onnxport.json").read_text())
    assert written["schema_version"] == 3
    assert {c["name"]: c["derived_from"] for c in written["components"]}["predict_proba_optimized"] == "predict_proba"


def _as_version_1(folder: Path) -> None:
    file = folder / "onnxport.json"
    data = json.loads(file.read_text())
    data["schema_version"] = 1
    for component in data["components"]:
        del component["derived_from"], component["ledger"]
    del data["unused"]
    file.write_text(json.dumps(data))


def test_a_graph_that_has_the_name_of_a_variant_is_not_replaced(tmp_path: Path) -> None:
    module = tiny_keras.WithSignatures()
    tiny_keras.saved_model(tmp_path / "m", module, predict=module.features, predict_optimized=module.back)
    convert(None, tmp_path / "m", tmp_path / "out")
    before = (tmp_path / "out" / "onnxport.json").read_bytes()
    with pytest.raises(FolderError, match="'predict_optimized' that was not made from 'predict'") as caught:
        optimize(tmp_path / "out")
    assert "--signature" in str(caught.value.hint)
    assert (tmp_path / "out" / "onnxport.json").read_bytes() == before
