"""Each rule on a file that breaks it, and none on sound files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxport.artifact.graph_findings import find_faults
from onnxport.errors import FolderError
from onnxport.runtime.session import OnnxSession
from tests.attacks import onnx_files


@pytest.mark.parametrize("name", onnx_files.FILES)
def test_the_code_of_each_attack(name: str, tmp_path: Path) -> None:
    code, make = onnx_files.FILES[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "model.onnx"
    file.write_bytes(make(folder))
    found = find_faults(file)
    assert code in {finding.code for finding in found if finding.refused}, found
    if name != "hard-link":  # an own graph without a folder may have linked weights
        with pytest.raises(FolderError):
            OnnxSession(file)


def test_a_sound_file_has_no_findings(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    for content in (onnx_files.sound(), onnx_files.with_data(tmp_path, bytes(8), offset=0, length=8)):
        file.write_bytes(content)
        assert find_faults(file) == []
        outputs = OnnxSession(file).run({"x": np.array([1, 2], np.float32)})
        assert outputs["y"].shape == (2,)


def test_what_onnx_writes_of_every_type_is_sound(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    tensors = []
    for data_type in TensorProto.DataType.values():
        if data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
            continue
        numbers = np.ones((3, 5), helper.tensor_dtype_to_np_dtype(data_type))
        tensors.append(onnx.numpy_helper.from_array(numbers, f"raw{data_type}"))
        tensors.append(helper.make_tensor(f"field{data_type}", data_type, [3, 5], numbers.ravel()))
    tensors.append(helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"b"]))
    tensors.append(helper.make_tensor("none", TensorProto.FLOAT, [0], []))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 5])
    graph = helper.make_graph([helper.make_node("Identity", ["raw1"], ["y"])], "g", [], [output], tensors)
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert find_faults(tmp_path / "model.onnx") == []
