"""What is different between two graphs, or between two folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport import compare
from onnxport.artifact.folder import read_folder, write_manifest
from onnxport.errors import FolderError, UsageError
from onnxport.specs import TensorSpec
from tests.unit.cli_runner import run, run_apart
from tests.unit.sample_manifest import make_manifest

WIDTH = 16


def model_of(weights, *, activation="Relu", axes=("batch_size", WIDTH), names=("w", "v")):
    """y = act(x @ w) @ v"""
    nodes = [
        helper.make_node("MatMul", ["x", names[0]], ["hidden"], name="first"),
        helper.make_node(activation, ["hidden"], ["active"], name="second"),
        helper.make_node("MatMul", ["active", names[1]], ["y"], name="third"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(weight, name) for name, weight in zip(names, weights, strict=True)]
    graph = helper.make_graph(nodes, "main", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def weights():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(2)]


def save(path, model):
    onnx.save(model, path)
    return path


def folder_of(path, model):
    (path / "onnx").mkdir(parents=True)
    onnx.save(model, path / "onnx" / "model.onnx")
    (path / "config.json").write_text(json.dumps({"id2label": {"0": "bad", "1": "good"}, "layers": 2}))
    manifest = make_manifest()
    specs = [TensorSpec(name, "float32", ("batch_size", WIDTH)) for name in ("x", "y")]
    component = replace(
        manifest.components[0], inputs=(specs[0],), outputs=(specs[1],), restrictions=(), data_files=(),
        weights_checksum=None, verification=None,
    )  # fmt: skip
    write_manifest(path, replace(manifest, components=(component,), files={}))
    return path


def test_the_same_graph(tmp_path):
    one, other = (save(tmp_path / f"{name}.onnx", model_of(weights())) for name in "ab")
    found = compare(one, other)
    (graph,) = found.graphs
    assert found.equal
    assert (graph.same_weights, graph.same_elements, graph.weights) == (2, 2 * WIDTH * WIDTH, ())
    assert graph.operators == {} and graph.changes == ()
    assert all(output.max_abs_error == 0 for case in graph.cases for output in case.outputs)
    assert len({tuple(case.sizes.items()) for case in graph.cases}) >= 2


def test_a_weight_that_no_input_shows_is_found(tmp_path):
    """One element by one thousandth: within the tolerance of the outputs, but another model."""
    changed = weights()
    changed[1][3, 5] *= 1.001
    one, other = save(tmp_path / "a.onnx", model_of(weights())), save(tmp_path / "b.onnx", model_of(changed))
    found = compare(one, other)
    (change,) = found.graphs[0].weights
    expected = abs(weights()[1][3, 5]) * 1e-3 / np.abs(weights()[1]).max()
    assert (change.name, change.how) == ("v", "changed")
    assert change.error == pytest.approx(expected, rel=1e-2)
    assert not found.equal


def test_renamed_and_transposed_weights_are_recognized(tmp_path):
    first, second = weights()
    one = save(tmp_path / "a.onnx", model_of([first, second]))
    other = save(tmp_path / "b.onnx", model_of([first, np.ascontiguousarray(second.T)], names=("weight_1", "v")))
    changes = {change.name: (change.how, change.other) for change in compare(one, other).graphs[0].weights}
    assert changes == {"w": ("renamed", "weight_1"), "v": ("transposed", "v")}


def test_the_layer_where_the_error_begins(tmp_path):
    one = save(tmp_path / "a.onnx", model_of(weights()))
    other = save(tmp_path / "b.onnx", model_of(weights(), activation="Elu"))
    graph = compare(one, other).graphs[0]
    assert graph.operators == {"Elu": (0, 1), "Relu": (1, 0)}
    by_value = {layer.value: layer for layer in graph.layers}
    assert by_value["hidden"].error == 0
    assert by_value["active"].error > 0.05
    assert max(graph.layers, key=lambda layer: layer.jump).value in ("active", "y")
    assert not any(case.ok for case in graph.cases)
    # Numbers as the definitions of both operators give them.
    for case in graph.cases:
        assert 0 < case.outputs[0].cosine < 1


def test_axes_that_became_static(tmp_path):
    one = save(tmp_path / "a.onnx", model_of(weights()))
    other = save(tmp_path / "b.onnx", model_of(weights(), axes=(2, WIDTH)))
    found = compare(one, other)
    changes = {change.name: (change.a, change.b) for change in found.graphs[0].changes if change.matters}
    assert changes["x"] == (f"float32 (batch_size, {WIDTH})", f"float32 (2, {WIDTH})")
    assert not found.equal


def test_folders_with_another_label(tmp_path):
    one = folder_of(tmp_path / "a", model_of(weights()))
    other = folder_of(tmp_path / "b", model_of(weights()))
    assert compare(one, other).equal
    (other / "config.json").write_text(json.dumps({"id2label": {"0": "good", "1": "good"}, "layers": 2}))
    write_manifest(other, read_folder(other))
    found = compare(one, other)
    assert [(change.kind, change.name, change.a, change.b) for change in found.changes] == [
        ("config.json", "id2label.0", '"bad"', '"good"')
    ]
    assert not found.equal


def test_a_quantized_graph_with_the_graph_that_it_was_made_from(tmp_path):
    from onnxport.graph.quantization.quantize import quantize_dynamic

    folder = folder_of(tmp_path / "a", model_of(weights()))
    quantize_dynamic(folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx")
    manifest = read_folder(folder)
    int8 = replace(
        manifest.components[0], name="model_quantized", file="onnx/model_quantized.onnx", precision="int8",
        derived_from="model",
    )  # fmt: skip
    write_manifest(folder, replace(manifest, components=(*manifest.components, int8)))
    (graph,) = compare(folder).graphs
    assert (graph.a, graph.b, graph.precision) == ("model", "model_quantized", "int8")
    changes = {change.name: change for change in graph.weights if change.how == "quantized"}
    assert changes.keys() == {"w", "v"}
    assert all(0 < change.error < 1 / 60 for change in changes.values())  # 7 bits, so that sums fit
    assert graph.equal and all(0.99 < case.outputs[0].cosine < 1 for case in graph.cases)
    assert {layer.value for layer in graph.layers} >= {"hidden", "active", "y"}
    named = compare(folder, graphs=("model", "model_quantized.onnx"))
    assert named.graphs == (graph,)


def test_exit_codes(tmp_path, capsys):
    one = folder_of(tmp_path / "a", model_of(weights()))
    other = folder_of(tmp_path / "b", model_of(weights(), activation="Elu"))
    same = shutil.copytree(one, tmp_path / "c")
    assert run(capsys, "compare", one, same).code == 0
    different = run(capsys, "compare", one, other, "--json")
    assert (different.code, different.document["equal"]) == (1, False)
    assert run(capsys, "compare", one, tmp_path / "absent").code == 2
    assert run(capsys, "compare", one).code == 2  # no graph was made from another one
    assert run(capsys, "compare", one, other, "--graphs", "model", "modle").code == 2


def test_the_base_install_is_enough(tmp_path):
    """Without the packages of any extra."""
    one = folder_of(tmp_path / "a", model_of(weights()))
    other = folder_of(tmp_path / "b", model_of(weights(), activation="Elu"))
    missing = "torch onnx onnx_ir onnxscript transformers tensorflow tf2onnx jinja2 PIL safetensors huggingface_hub"
    outcome = run_apart(
        "compare", one, other, "--json", before=f"sys.modules.update(dict.fromkeys({missing.split()!r}))"
    )  # fmt: skip
    assert outcome.code == 1, outcome.err
    assert outcome.document["graphs"][0]["layers"]


def test_what_cannot_be_compared(tmp_path):
    folder, graph = folder_of(tmp_path / "a", model_of(weights())), save(tmp_path / "g.onnx", model_of(weights()))
    with pytest.raises(FolderError):
        compare(folder, tmp_path / "absent.onnx")
    with pytest.raises(UsageError):
        compare(graph)
    with pytest.raises(UsageError):
        compare(graph, folder, graphs=("model", "model"))
    assert compare(graph, folder).equal  # a graph with the graph of a folder
