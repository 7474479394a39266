"""The route of large models, on small ones: weights that never pass through the exporter.

Weights inside the graph file, which most tests elsewhere have, are for the sweep here.
"""

import json
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from onnxport import convert, quantize
from onnxport.errors import ExportError, MemoryLimitError, OutputError, UsageError
from onnxport.runtime.session import OnnxSession
from onnxport.serialization.hashed_file import HashedFile
from onnxport.serialization.weights_file import read_weights
from onnxport.system.output_capture import capture_process
from onnxport.weights.attach import attach
from tests.sample import sampled

pytestmark = pytest.mark.integration

_DECODER = {
    "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 64,
}  # fmt: skip


def _save(model: torch.nn.Module, folder: Path, dtype: torch.dtype = torch.float32, **how: object) -> Path:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    with capture_process():
        model.to(dtype).save_pretrained(folder, **how)
    return folder


def _llama(folder: Path, dtype: torch.dtype = torch.float32, layers: int = 2) -> Path:
    config = transformers.LlamaConfig(**_DECODER | {"num_hidden_layers": layers})
    return _save(transformers.LlamaModel(config), folder, dtype, max_shard_size="200KB")


def _moe(folder: Path) -> Path:
    config = transformers.Qwen3MoeConfig(
        **_DECODER, moe_intermediate_size=96, num_experts=4, num_experts_per_tok=2, head_dim=32
    )
    return _save(transformers.Qwen3MoeModel(config), folder)


def _nodes_on_weights(graph: ir.Graph, *operators: str) -> list[str]:
    return [
        f"{node.op_type}({node.inputs[0].name})"
        for node in graph
        if node.op_type in operators and node.inputs[0] is not None and node.inputs[0].is_initializer()
    ]


def _evidence(folder: Path) -> dict:
    return json.loads((folder / "onnxport.json").read_text())["components"][0]["verification"]


@pytest.fixture
def mapped(monkeypatch):
    """As if every model were too large for a copy of its weights."""
    monkeypatch.setattr("onnxport.system.memory.MAPPED_FROM_BYTES", 0)
    monkeypatch.setattr("onnxport.runtime.mapped_weights.MAPPED_FROM_BYTES", 1024)
    monkeypatch.setattr("onnxport.sources.pytorch.source._LARGE_BYTES", 0)


@pytest.mark.sweep
@pytest.mark.parametrize("external", sampled([False, True], True))
def test_a_bfloat16_checkpoint_in_shards(tmp_path, mapped, external):
    source = _llama(tmp_path / "m", torch.bfloat16)
    assert len(list(source.glob("*.safetensors"))) > 2
    out = tmp_path / "out"
    assert convert(None, source, out, None, None, external, "feature-extraction").passed
    assert _evidence(out)["runtime"].endswith("weights mapped)")
    assert (out / "onnx/model.onnx_data").exists() == external
    graph = ir.load(out / "onnx/model.onnx").graph
    assert _nodes_on_weights(graph, "Transpose") == []
    reference = transformers.LlamaModel.from_pretrained(source, dtype=torch.float32).eval()
    stored = graph.initializers["layers.0.mlp.down_proj.weight"].const_value.numpy()
    np.testing.assert_array_equal(stored, reference.layers[0].mlp.down_proj.weight.detach().numpy().T)
    ids = np.arange(3 * 9).reshape(3, 9)  # a size that was not traced
    found = OnnxSession(out).run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["last_hidden_state"]
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)).last_hidden_state.numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.sweep
def test_experts_are_stored_as_they_are_multiplied(tmp_path, mapped):
    source = _moe(tmp_path / "m")
    out = tmp_path / "out"
    assert convert(None, source, out, None, None, True, "feature-extraction").passed
    graph = ir.load(out / "onnx/model.onnx").graph
    assert _nodes_on_weights(graph, "Transpose", "Split", "Squeeze") == []
    weights = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    assert (out / "onnx/model.onnx_data").stat().st_size < 1.1 * weights


def test_a_tied_table_is_stored_once_and_read_as_it_is(tmp_path):
    """The word embeddings of BERT are also its output layer."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, vocab_size=500, max_position_embeddings=64)
    source = _save(transformers.BertForMaskedLM(config), tmp_path / "m")
    out = tmp_path / "out"
    assert convert(None, source, out, None, None, True, "fill-mask").passed
    graph = ir.load(out / "onnx/model.onnx").graph
    with capture_process():
        table = transformers.AutoModelForMaskedLM.from_pretrained(source).get_input_embeddings().weight
    same = [
        value for value in graph.initializers.values()
        if value.const_value.size == table.numel()
        and np.isin(value.const_value.numpy(), table.detach().numpy()).all()
    ]  # fmt: skip
    assert len(same) == 1
    assert sorted(use.node.op_type for use in same[0].uses()) == ["Gather", "Gemm"]
    assert _nodes_on_weights(graph, "Transpose") == []


def test_a_live_module_keeps_its_weights(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(120, 200)
            self.register_buffer("table", torch.randn(700, 120))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.inner(self.table[ids]).relu()

    torch.manual_seed(0)
    net = Net()
    before = {name: (tensor, tensor.clone()) for name, tensor in net.state_dict(keep_vars=True).items()}
    assert convert("pt", net, tmp_path / "net.onnx", sample_inputs=torch.tensor([[1, 2, 3], [4, 5, 6]])).passed
    for name, tensor in net.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])


def test_a_weight_without_numbers_is_no_graph():
    """What the exporter calls a weight must be one of the model's: anything else would be made up."""
    with torch._subclasses.FakeTensorMode():
        fake = torch.empty(40, 50)
    value = ir.Value(name="inner.wait", shape=ir.Shape([40, 50]), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor_adapters.TorchTensor(fake, name="inner.wait")
    graph = ir.Graph([], [], nodes=[], initializers=[value], opset_imports={"": 23})
    module = torch.nn.Sequential()
    module.add_module("inner", torch.nn.Linear(50, 40))
    with pytest.raises(ExportError, match=r"a weight 'inner\.wait' .* that the model does not have"):
        attach(ir.Model(graph, ir_version=10), module)
    value.name = "inner.weight"
    graph.initializers.clear()
    graph.initializers["inner.weight"] = value
    attach(ir.Model(graph, ir_version=10), module)
    np.testing.assert_array_equal(value.const_value.numpy(), module.inner.weight.detach().numpy())


def test_what_does_not_fit_is_refused_before_it_is_tried(tmp_path):
    source = _llama(tmp_path / "m", torch.bfloat16)
    with pytest.raises(MemoryLimitError, match=r"needs about 0\.7 GiB of memory, and the limit is 0\.1 GiB"):
        convert(None, source, tmp_path / "out", pipeline_name="feature-extraction", memory_limit=2**27)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_shards_and_checksums_and_an_int8_graph_beside_them(tmp_path):
    source = _llama(tmp_path / "m")
    out = tmp_path / "out"
    convert(None, source, out, pipeline_name="feature-extraction", shard_size=300_000)
    component = json.loads((out / "onnxport.json").read_text())["components"][0]
    assert component["data_files"][:2] == ["onnx/model.onnx_data", "onnx/model.onnx_data_1"]
    assert all((out / name).stat().st_size <= 300_000 for name in component["data_files"])
    weights = {record.name: record for record in read_weights(out / component["weights_checksum"]["file"])}
    record = weights["layers.1.mlp.up_proj.weight"]
    assert record.source is not None
    assert re.fullmatch(r"model-0000\d-of-0000\d\.safetensors: layers\.1\.mlp\.up_proj\.weight, permute", record.source)
    content = (out / "onnx" / record.file).read_bytes()[record.offset : record.offset + record.length]
    with capture_process():
        stored = transformers.LlamaModel.from_pretrained(source).layers[1].mlp.up_proj.weight.detach().numpy()
    assert content == np.ascontiguousarray(stored.T).tobytes()
    assert str(tmp_path) not in (out / component["weights_checksum"]["file"]).read_text()
    file = quantize(out)
    names = [component["name"] for component in json.loads((out / "onnxport.json").read_text())["components"]]
    assert names == ["model", "model_quantized"]
    assert file.stat().st_size < 0.5 * sum((out / name).stat().st_size for name in component["data_files"])
    assert (out / "onnx/model.weights.json").exists()


def test_linked_weights_are_not_copied(tmp_path):
    source = _llama(tmp_path / "m")
    out = tmp_path / "out"
    assert convert(None, source, out, pipeline_name="feature-extraction", link_weights=True).passed
    component = json.loads((out / "onnxport.json").read_text())["components"][0]
    shards = sorted(source.glob("*.safetensors"))
    beside = [out / name for name in component["data_files"]]
    assert all(any(file.samefile(shard) for file in beside) for shard in shards)
    copied = [file for file in beside if not any(file.samefile(shard) for shard in shards)]
    assert sum(file.stat().st_size for file in copied) < 150_000  # k and v are small enough to be folded
    assert component["operators"]["Gemm"] == 10
    here = source / "here.onnx"  # beside the checkpoint
    assert convert(None, source, here, pipeline_name="feature-extraction", link_weights=True, overwrite=True).passed
    assert len(list(source.glob("*.safetensors"))) == len(shards)
    assert (source / "here.onnx").stat().st_size < 200_000
    ids = np.arange(10).reshape(1, 10)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    found = [next(iter(OnnxSession(path).run(inputs).values())) for path in (out, here)]
    np.testing.assert_array_equal(*found)


@pytest.mark.sweep
def test_what_cannot_be_linked_is_told(tmp_path):
    source = _llama(tmp_path / "m", torch.bfloat16)
    with pytest.raises(UsageError, match="--link-weights has no effect"):
        convert(None, source, tmp_path / "out", pipeline_name="feature-extraction", link_weights=True)
    with pytest.raises(UsageError, match="int8 quantization cannot read"):
        convert(None, source, tmp_path / "out", link_weights=True, quantize=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_disk_that_does_not_keep_what_it_took(tmp_path, monkeypatch):
    """One bit of a row that no sample reads: only the checksum can tell."""
    source = _llama(tmp_path / "m", layers=1)

    def flip(self: HashedFile, block: memoryview | bytes) -> None:
        wrote(self, block)
        if len(block) == 300 * 128 * 4:  # the word embeddings
            self._file.seek(-4 * 128 + 1, 1)  # in the row of the last word
            self._file.write(b"\x55")
            self._file.seek(0, 2)

    wrote = HashedFile.write
    monkeypatch.setattr(HashedFile, "write", flip)
    with pytest.raises(
        OutputError, match=r"The weight 'embed_tokens\.weight' in model\.onnx_data .* is not what was read"
    ):
        convert(None, source, tmp_path / "out", None, None, True, "feature-extraction")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
