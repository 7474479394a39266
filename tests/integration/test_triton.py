"""Model repositories for Triton: configs read by Triton's own message, graphs loaded from where Triton finds them."""

from __future__ import annotations

import numpy as np
import pytest

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
    [place] = (tmp_path / "models").iterdir()
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
