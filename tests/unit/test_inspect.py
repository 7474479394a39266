"""`inspect`: folders from their manifest, bare graphs without their weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.api.inspect import inspect
from onnxport.artifact.folder import write_manifest
from onnxport.errors import FolderError, MissingDependencyError
from onnxport.serialization.onnxfile import write_model
from onnxport.specs import TensorSpec
from tests.unit.sample_manifest import make_manifest

_ROWS, _COLUMNS = 64, 32


def make_graph(weight: np.ndarray | None = None, **extra: np.ndarray) -> onnx.ModelProto:
    """`(batch_size, 64) @ (64, 32)`, with a free axis that has no name in a second input."""
    weight = np.ones((_ROWS, _COLUMNS), np.float32) if weight is None else weight
    element = helper.np_dtype_to_tensor_dtype(weight.dtype)
    initializers = [numpy_helper.from_array(weight, "weight")]
    initializers += [numpy_helper.from_array(array, name) for name, array in extra.items()]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["y"]),
            helper.make_node("Neg", ["free"], ["z"]),
            helper.make_node("Gelu", ["y"], ["g"], domain="com.microsoft"),
        ],
        "graph",
        [
            helper.make_tensor_value_info("x", element, ["batch_size", _ROWS]),
            helper.make_tensor_value_info("free", TensorProto.INT64, [None]),
        ],
        [
            helper.make_tensor_value_info("g", element, ["batch_size", _COLUMNS]),
            helper.make_tensor_value_info("z", TensorProto.INT64, [None]),
        ],
        initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        graph, producer_name="someone", producer_version="2.0", opset_imports=opsets, ir_version=10
    )


def make_folder(folder: Path) -> Path:
    """A folder with the sample manifest and files of known sizes."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(bytes(800))
    (folder / "onnx" / "model.onnx_data").write_bytes(bytes(150))
    (folder / "onnx" / "model.onnx_data_1").write_bytes(bytes(50))
    (folder / "config.json").write_bytes(bytes(24))
    write_manifest(folder, make_manifest())
    return folder


def test_a_folder_is_what_its_manifest_says(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bert")
    found = inspect(folder)
    component = make_manifest().components[0]
    assert (found.kind, found.task, found.architecture) == ("folder", "fill-mask", "BertForMaskedLM")
    assert found.size_bytes == 1024 + (folder / "onnxport.json").stat().st_size
    [graph] = found.graphs
    assert graph.inputs == component.inputs
    assert graph.restrictions == component.restrictions
    assert graph.verification == component.verification
    assert graph.producer == "onnxport 0.1.0, torch 2.13.0"
    assert graph.missing == ()


def test_a_folder_needs_no_onnx_library(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bert")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch']))\n"
        "from onnxport.api.inspect import inspect; inspect(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_a_missing_graph_is_told(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bert")
    (folder / "onnx" / "model.onnx").unlink()
    assert inspect(folder).graphs[0].missing == ("onnx/model.onnx",)


def test_missing_weights_of_a_folder_are_told(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bert")
    (folder / "onnx" / "model.onnx_data_1").unlink()
    assert inspect(folder).graphs[0].missing == ("onnx/model.onnx_data_1",)


def test_missing_weights_of_an_older_folder_are_told(tmp_path: Path) -> None:
    """Whose manifest names its weights only among all files."""
    folder = make_folder(tmp_path / "bert")
    manifest = make_manifest()
    component = replace(manifest.components[0], data_files=(), weights_checksum=None)
    write_manifest(folder, replace(manifest, components=(component,)))
    (folder / "onnx" / "model.onnx_data").unlink()
    assert inspect(folder).graphs[0].missing == ("onnx/model.onnx_data",)


def test_a_bare_graph(tmp_path: Path) -> None:
    file = tmp_path / "tiny.onnx"
    onnx.save(make_graph(), file)
    found = inspect(file)
    assert found.kind == "graph"
    [graph] = found.graphs
    assert graph.inputs == (
        TensorSpec("x", "float32", ("batch_size", _ROWS)),
        TensorSpec("free", "int64", ("?",)),
    )
    assert graph.outputs[0] == TensorSpec("g", "float32", ("batch_size", _COLUMNS))
    assert graph.operators["MatMul"] == 1
    assert sum(graph.operators.values()) == 3
    assert graph.parameters == _ROWS * _COLUMNS
    assert (graph.precision, graph.opset, graph.producer) == ("float32", 18, "someone 2.0")
    assert found.size_bytes == file.stat().st_size
    assert graph.verification is None


@pytest.mark.parametrize(("dtype", "precision"), [(np.float16, "float16"), (np.int8, "int8"), (np.float64, "float64")])
def test_precision_is_that_of_most_weights(tmp_path: Path, dtype: type, precision: str) -> None:
    weight = np.ones((_ROWS, _COLUMNS), dtype)
    onnx.save(make_graph(weight, scale=np.ones(4, np.float32), places=np.zeros(9999, np.int64)), tmp_path / "a.onnx")
    assert inspect(tmp_path / "a.onnx").graphs[0].precision == precision


def test_weights_beside_the_graph_are_measured_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    written = write_model(ir.from_proto(make_graph()), file, external=True)
    data = tmp_path / "a.onnx_data"
    assert data in written.files
    assert inspect(file).size_bytes == file.stat().st_size + _ROWS * _COLUMNS * 4
    # Not readable as weights any more: reading would fail.
    data.write_bytes(b"x" * 10)
    assert inspect(file).graphs[0].parameters == _ROWS * _COLUMNS
    data.unlink()
    assert inspect(file).graphs[0].missing == ("a.onnx_data",)


def test_strings_in_a_graph(tmp_path: Path) -> None:
    onnx.save(make_graph(labels=np.array(["cat", "dog"], object)), tmp_path / "a.onnx")
    assert inspect(tmp_path / "a.onnx").graphs[0].parameters == _ROWS * _COLUMNS


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="does not exist"):
        inspect(tmp_path / "absent")
    with pytest.raises(FolderError, match="does not exist"):
        inspect(tmp_path / "absent.onnx")


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x0a" * 50])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(FolderError, match=r"a\.onnx"):
        inspect(tmp_path / "a.onnx")


def test_a_folder_of_bare_graphs_names_one(tmp_path: Path) -> None:
    onnx.save(make_graph(), tmp_path / "a.onnx")
    with pytest.raises(FolderError) as caught:
        inspect(tmp_path)
    assert caught.value.hint is not None
    assert "a.onnx" in caught.value.hint


def test_a_bare_graph_without_onnx_ir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(make_graph(), tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(MissingDependencyError) as caught:
        inspect(tmp_path / "a.onnx")
    assert "pip install" in (caught.value.hint or "")
