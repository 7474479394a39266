"""Model repositories for Triton: configs read by Triton's own message, graphs loaded from where Triton finds them."""

from __future__ import annotations

import json
import runpy
import sys
import types

import numpy as np
import pytest

from onnxport import pipeline
from onnxport.cli.main import main
from onnxport.errors import OutputError, UsageError
from onnxport.runtime.session import OnnxSession
from onnxport.targets import find_target
from onnxport.targets.triton import read_config

pytestmark = pytest.mark.integration
model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")


def test_a_classifier(converted, tmp_path, capsys):
    folder = converted("bert-text-classification").folder
    assert main(["target", "triton", str(folder), str(tmp_path / "models")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "models")
    place = tmp_path / "models" / folder.name
    assert {one.name for one in (tmp_path / "models").iterdir()} == {
        folder.name, f"{folder.name}_tokenizer", f"{folder.name}_text",
    }  # fmt: skip
    assert (
        sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())[0] == "1/model.onnx"
    )
    config = read_config(place / "config.pbtxt")
    assert config.name == place.name == folder.name
    assert config.max_batch_size == 32
    made, own = OnnxSession(place / "1" / "model.onnx"), OnnxSession(folder)
    assert {tensor.name: tuple(tensor.dims) for tensor in config.input} == {spec.name: (-1,) for spec in own.inputs}
    assert {tensor.data_type for tensor in config.input} == {model_config.TYPE_INT64}
    assert [list(tensor.dims) for tensor in config.output] == [[own.outputs[0].axes[1]]]
    ids = np.random.default_rng(0).integers(3, 30, (5, 9))  # more rows than were traced
    inputs = {spec.name: ids if spec.name == "input_ids" else np.ones_like(ids) for spec in own.inputs}
    assert np.array_equal(made.run(inputs)["logits"], own.run(inputs)["logits"])
    write = find_target("triton")
    with pytest.raises(OutputError):
        write(folder, output=tmp_path / "models")
    with pytest.raises(UsageError):
        write(folder)
    with pytest.raises(UsageError):
        write(folder, component="model_q5", output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


class _Tensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


class _Response:
    def __init__(self, output_tensors=(), error=None):
        self.output_tensors, self.error = output_tensors, error


def test_texts_in_the_ensemble(converted, tmp_path, monkeypatch):
    """model.py runs as Triton runs it, with a stand-in of the module that exists inside the server alone."""
    folder = converted("bert-text-classification").folder
    root = find_target("triton")(folder, output=tmp_path / "models")
    name = folder.name
    tokens, whole = (read_config(root / f"{name}_{part}" / "config.pbtxt") for part in ("tokenizer", "text"))
    assert (tokens.backend, whole.platform, tokens.max_batch_size) == ("python", "ensemble", 32)
    assert [one.data_type for one in (*tokens.input, *whole.input)] == [model_config.TYPE_STRING] * 2
    graph = read_config(root / name / "config.pbtxt")
    assert [one.name for one in tokens.output] == [one.name for one in graph.input]
    assert [one.name for one in whole.output] == [one.name for one in graph.output]
    first, second = whole.ensemble_scheduling.step
    assert (first.model_name, second.model_name) == (tokens.name, graph.name)
    # Every tensor that a step takes is given, or made by the step before it.
    assert set(first.input_map) == {"text"}
    assert set(first.output_map.values()) == set(second.input_map.values()) == {one.name for one in graph.input}

    backend = types.ModuleType("triton_python_backend_utils")
    backend.Tensor, backend.InferenceResponse, backend.TritonError = _Tensor, _Response, str
    backend.get_input_tensor_by_name = lambda request, name: request[name]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    made = runpy.run_path(str(root / tokens.name / "1" / "model.py"))["TritonPythonModel"]()
    described = json.dumps({"output": [{"name": one.name} for one in tokens.output]})
    made.initialize({"model_repository": str(root / tokens.name), "model_version": "1", "model_config": described})
    texts = ["Ada lives in London.", "a", "It rains. " * 90]
    requests = [np.array([[text.encode()] for text in some], object) for some in (texts, texts[:1])]
    answers = made.execute([{"text": _Tensor("text", one)} for one in requests])
    session = OnnxSession(root / name / "1" / "model.onnx")
    with pipeline(model=str(folder), truncation=True, top_k=None) as classify:
        for answer, some in zip(answers, (texts, texts[:1]), strict=True):
            logits = session.run({one.name: one.values for one in answer.output_tensors})["logits"]
            scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            for row, wanted in zip(scores, classify(list(some)), strict=True):
                np.testing.assert_allclose(sorted(row), sorted(one["score"] for one in wanted), atol=1e-6)
    [refused] = made.execute([{"text": _Tensor("text", np.array([[b"\xff"]], object))}])
    assert refused.error


def test_two_graphs_share_their_weights(converted, tmp_path):
    """And the decoder's cache has named axes; its choice of logits has a default, so it is no input."""
    folder = converted("t5-untied", pipeline_name="text2text-generation").folder
    root = find_target("triton")(folder, output=tmp_path / "models")
    names = {f"{folder.name}_{part}": part for part in ("encoder_model", "decoder_model_merged")}
    assert {place.name for place in root.iterdir()} == set(names)
    for name, part in names.items():
        config = read_config(root / name / "config.pbtxt")
        session = OnnxSession(root / name / "1" / config.default_model_filename)
        assert {tensor.name for tensor in config.input} == {spec.name for spec in session.inputs}, part
        assert config.max_batch_size == 32
    cache = next(tensor for tensor in config.input if tensor.name.startswith("past_key_values"))
    assert len(cache.dims) == 3 and cache.dims[1] == -1
    data = list(root.glob("*/1/*_data"))
    shared = [file for file in data if file.stat().st_nlink > 1]
    assert not data or shared
