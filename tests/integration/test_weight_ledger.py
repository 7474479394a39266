"""The ledger of weights: faults that are planted between loading and publication are found, whatever inputs touch."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import onnxport
from onnxport.api.capture import capture_graphs
from onnxport.artifact.folder import read_folder
from onnxport.artifact.ledger import Proof
from onnxport.errors import CheckpointError, OnnxPortError, VerificationError
from onnxport.formats.graph_tensors import graph_tensors
from onnxport.graph.write import WeightFiles, write_graphs
from onnxport.loading import weight_loading
from onnxport.loading.model_to_export import ModelToExport, load_model_to_export
from onnxport.loading.options import LoadOptions
from onnxport.loading.resolve import resolve_model
from onnxport.progress import Silent
from onnxport.serialization import onnxfile
from onnxport.system.timing import Stopwatch
from onnxport.verification.ledger.derived import prove_derived
from onnxport.verification.ledger.graph_weights import record_weights
from onnxport.verification.ledger.unused_parameters import NOT_READ
from onnxport.weights.lazy import evaluate
from onnxport.weights.origins import Stored
from tests.conversions import save

pytestmark = pytest.mark.integration

_BERT = "bert.encoder.layer.{}.{}"
_WORDS = "bert.embeddings.word_embeddings.weight"


def _load(source: Path, task: str = "auto", **options: object) -> ModelToExport:
    given = LoadOptions(**options)
    return load_model_to_export(resolve_model(source, None, given), task, given)


def _write(captured: list, folder: Path, *, external: bool) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{one.name}.onnx" for one in captured]
    with Silent().step("write") as step:
        write_graphs([one.graph for one in captured], files, folder, WeightFiles(external), step)
    return files


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A captured graph that is still in memory, written twice: with its weights inside and beside it."""
    root = tmp_path_factory.mktemp("ledger")
    to_export = _load(save("bert-text-classification", root / "m"))
    captured = capture_graphs(to_export, 23, Stopwatch(Silent()))
    inside, beside = (_write(captured, root / name, external=name == "beside")[0] for name in ("inside", "beside"))
    return SimpleNamespace(root=root, source=root / "m", captured=captured[0], inside=inside, beside=beside)


@pytest.fixture
def written(bert, tmp_path, request):
    """A copy of the written graph, to be damaged, and the ledger's check of it."""
    place = getattr(request, "param", "beside")
    source = getattr(bert, place)
    for file in source.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / source.name
    return SimpleNamespace(file=file, weights=bert.captured.weights, prove=lambda: bert.captured.weights.prove(file))


def _array(file: Path, name: str) -> np.ndarray:
    """A weight of a written graph, mapped so that changes are written into the file."""
    tensor = next(one for one in graph_tensors(file) if one.name == name)
    assert tensor.values is None, name
    return np.memmap(tensor.file, "<f4", "r+", tensor.offset, tensor.shape)


def _holder(written: SimpleNamespace, origin: str) -> str:
    """Name of the weight that holds a tensor of the checkpoint."""
    return next(name for name, one in written.weights.expected.items() if one.origins.endswith(f": {origin}"))


def test_all_weights_are_proved(written):
    ledger = written.prove()
    assert ledger.against == "checkpoint"
    floats = [one for one in graph_tensors(written.file) if one.elements > 64]
    assert all(ledger.weights[one.name].proof in (Proof.EXACT, Proof.TRANSFORMED, Proof.SOURCE) for one in floats)
    assert ledger.weights[_WORDS].text == f"exact | as is | model.safetensors: {_WORDS}"
    query = _BERT.format(0, "attention.self.query.weight")
    assert ledger.weights[_holder(written, query)].text == f"transformed | transposed 1 0 | model.safetensors: {query}"
    assert ledger.bytes[Proof.UNPROVED] < 100 < ledger.proved_bytes


def _one_word(get: Callable[[str], np.ndarray]) -> str:
    get(_WORDS)[77, 5] *= 1.01
    return _WORDS


def _last_position(get: Callable[[str], np.ndarray]) -> str:
    name = "bert.embeddings.position_embeddings.weight"
    get(name)[-1, 0] += 1e-6
    return name


def _second_token_type(get: Callable[[str], np.ndarray]) -> str:
    name = "bert.embeddings.token_type_embeddings.weight"
    get(name)[1, 0] += 1e-6
    return name


def _norm_by_one_unit(get: Callable[[str], np.ndarray]) -> str:
    name = _BERT.format(1, "output.LayerNorm.weight")
    weight = get(name)
    weight[3] = np.nextafter(weight[3], np.float32(10))
    return name


def _zeroed_bias(get: Callable[[str], np.ndarray]) -> str:
    name = _BERT.format(0, "intermediate.dense.bias")
    get(name)[:] = 0
    return name


def _swapped_layers(get: Callable[[str], np.ndarray]) -> str:
    first, second = (get(_BERT.format(layer, "attention.output.dense.bias")) for layer in (0, 1))
    first[:], second[:] = np.array(second), np.array(first)
    return _BERT.format(0, "attention.output.dense.bias")


def _query_for_key(get: Callable[[str], np.ndarray]) -> str:
    query, key = (get(_BERT.format(0, f"attention.self.{one}.weight")) for one in ("query", "key"))
    query[:], key[:] = np.array(key), np.array(query)
    return _BERT.format(0, "attention.self.key.weight")


def _square_transposed(get: Callable[[str], np.ndarray]) -> str:
    name = _BERT.format(1, "attention.self.value.weight")
    weight = get(name)
    assert weight.shape[0] == weight.shape[1]
    weight[:] = np.array(weight).T
    return name


def _row_dropped(get: Callable[[str], np.ndarray]) -> str:
    table = get(_WORDS)
    table[9:-1] = np.array(table[10:])
    return _WORDS


def _rounded_to_half(get: Callable[[str], np.ndarray]) -> str:
    table = get(_WORDS)
    table[:] = np.array(table).astype(np.float16)
    return _WORDS


def _left_random(get: Callable[[str], np.ndarray]) -> str:
    weight = get("classifier.weight")
    weight[:] = np.random.default_rng(0).normal(0, 0.02, weight.shape)
    return "classifier.weight"


_FAULTS = [
    _one_word, _last_position, _second_token_type, _norm_by_one_unit, _zeroed_bias, _swapped_layers, _query_for_key,
    _square_transposed, _row_dropped, _rounded_to_half, _left_random,
]  # fmt: skip


@pytest.mark.parametrize("written", ["beside", "inside"], indirect=True)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_a_changed_weight_is_named(written, fault):
    holders = {one.origins.partition(": ")[2]: name for name, one in written.weights.expected.items()}
    if "inside" in str(written.file) and fault is _norm_by_one_unit:
        pytest.skip("the tensor is in the graph message")
    name = fault(lambda origin: _array(written.file, holders[origin]))
    with pytest.raises(VerificationError) as caught:
        written.prove()
    assert f"model.safetensors: {name} " in caught.value.message


@pytest.mark.parametrize("name", ["classifier.bias", _BERT.format(0, "output.LayerNorm.bias")])
def test_a_weight_inside_the_message_counts_too(written, name):
    """Weights below 1 KiB stand in the graph file, not in a data file."""
    tensor = next(one for one in graph_tensors(written.file) if one.name == name)
    assert tensor.nbytes < 1024
    values = np.frombuffer(tensor.bytes(), "<f4").copy()
    content = written.file.read_bytes()
    assert content.count(values.tobytes()) == 1
    changed = values.copy()
    changed[-1] += np.float32(1e-3)
    written.file.write_bytes(content.replace(values.tobytes(), changed.tobytes()))
    with pytest.raises(VerificationError) as caught:
        written.prove()
    assert f"{name} differs" in caught.value.message


def test_a_flipped_bit_of_the_data_file(written):
    data = written.file.with_name(f"{written.file.name}_data")
    content = bytearray(data.read_bytes())
    table = next(one for one in graph_tensors(written.file) if one.name == _WORDS)
    content[table.offset + table.length - 4] ^= 1
    data.write_bytes(content)
    with pytest.raises(VerificationError) as caught:
        written.prove()
    assert f"{_WORDS} differs" in caught.value.message


def test_a_data_file_that_is_cut_off(written):
    data = written.file.with_name(f"{written.file.name}_data")
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(OnnxPortError) as caught:
        written.prove()
    assert data.name in caught.value.message


def test_a_weight_that_nothing_explains(written):
    known = {name: one for name, one in written.weights.expected.items() if name != _WORDS}
    weights = dataclasses.replace(written.weights, expected=known)
    with pytest.raises(VerificationError) as caught:
        weights.prove(written.file)
    assert _WORDS in caught.value.message


# Faults in our own code, before and while the graph is written.


def _swap_entries(monkeypatch, first: str, second: str, change: Callable) -> None:
    real = weight_loading.plan_loading

    def planned(*arguments, **settings):
        plan = real(*arguments, **settings)
        state = plan.settings["state_dict"]
        change(state, first, second)
        return plan

    monkeypatch.setattr("onnxport.loading.weights.plan_loading", planned)


def _names(state, first, second):
    state[first], state[second] = state[second], state[first]


def _places(state, first, second):
    one, other = state[first].origin, state[second].origin
    state[first].origin = Stored(one.path, one.name, other.begin)
    state[second].origin = Stored(other.path, other.name, one.begin)


_PAIRS = [
    (_BERT.format(0, "attention.output.dense.weight"), _BERT.format(1, "attention.output.dense.weight")),
    (_BERT.format(0, "attention.self.query.weight"), _BERT.format(0, "attention.self.key.weight")),
]


@pytest.mark.parametrize("pair", _PAIRS, ids=["layers", "query and key"])
def test_tensors_loaded_under_each_others_names(bert, monkeypatch, pair):
    """The source model is wrong too, so that no comparison of outputs can find it."""
    _swap_entries(monkeypatch, *pair, _names)
    with pytest.raises(VerificationError) as caught:
        _load(bert.source)
    assert all(name in caught.value.message for name in pair)


def test_tensors_read_from_each_others_places(bert, monkeypatch, tmp_path):
    """Their names are right, and the bytes in source and graph are those of another tensor."""
    _swap_entries(monkeypatch, *_PAIRS[0], _places)
    captured = capture_graphs(_load(bert.source), 23, Stopwatch(Silent()))
    files = _write(captured, tmp_path / "out", external=False)
    with pytest.raises(VerificationError) as caught:
        captured[0].weights.prove(files[0])
    assert all(name in caught.value.message for name in _PAIRS[0])


def test_a_parameter_left_at_its_random_initialization(bert, monkeypatch):
    from onnxport.loading import weights as module

    real = module.trace_origins

    def traced(model, *arguments):
        with torch.no_grad():
            model.classifier.weight = torch.nn.Parameter(torch.randn(model.classifier.weight.shape))
        return real(model, *arguments)

    monkeypatch.setattr(module, "trace_origins", traced)
    with pytest.raises(VerificationError) as caught:
        _load(bert.source)
    assert "classifier.weight" in caught.value.message


def test_a_parameter_replaced_between_loading_and_capture(bert):
    to_export = _load(bert.source)
    layer = to_export.pipeline.model.bert.embeddings.token_type_embeddings
    changed = evaluate(layer.weight).clone()
    changed[1, 3] *= 1.01
    layer.weight = torch.nn.Parameter(changed)
    with pytest.raises(VerificationError) as caught:
        record_weights(to_export)
    assert "token_type_embeddings.weight" in caught.value.message


def test_a_pickled_checkpoint(bert, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    source = tmp_path / "m"
    shutil.copytree(bert.source, source)
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    found = _load(source, allow_pickle=True)
    (records,) = record_weights(found)
    assert not set(dict(found.pipeline.model.named_parameters())) & set(records.digests)
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    assert np.array_equal(records.array(records.records[_WORDS]), state[_WORDS].numpy())
    _swap_entries(monkeypatch, *_PAIRS[0], _names)
    with pytest.raises(VerificationError) as caught:
        _load(source, allow_pickle=True)
    assert all(name in caught.value.message for name in _PAIRS[0])


def test_experts_in_another_order(tmp_path, monkeypatch):
    source = save("mixtral", tmp_path / "m")
    real = torch.ops.aten.stack.default
    from onnxport.weights import lazy

    def record(func, args, kwargs=None):
        if func is real and len(args[0]) > 1:
            args = ([args[0][1], args[0][0], *args[0][2:]], *args[1:])
        return original(func, args, kwargs)

    original = lazy.record
    monkeypatch.setattr(lazy, "record", record)
    with pytest.raises(VerificationError) as caught:
        _load(source)
    assert "experts.1." in caught.value.message
    assert "experts.0." in caught.value.message


def test_a_tied_weight_that_the_checkpoint_has_twice(tmp_path):
    from safetensors.torch import load_file, save_file

    source = save("qwen2", tmp_path / "m")
    config = json.loads((source / "config.json").read_text())
    state = load_file(source / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tied = _load(source).pipeline.model  # equal: nothing is lost
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    state["lm_head.weight"][3, 4] += 1
    save_file(state, source / "model.safetensors", {"format": "pt"})
    try:
        apart = _load(source).pipeline.model
    except VerificationError as error:
        assert "lm_head.weight" in error.message
    else:  # transformers itself does not tie them
        assert apart.lm_head.weight is not apart.model.embed_tokens.weight


def test_a_fault_of_the_writer_publishes_nothing(bert, monkeypatch, tmp_path):
    real = onnxfile.write_tensor

    def write(tensor, file, report, buffer=None):
        if tensor.name != _WORDS:
            return real(tensor, file, report, buffer)
        values = tensor.numpy().copy()
        values[101, 2] *= 1.01
        import onnx_ir as ir

        return real(ir.tensor(values, name=tensor.name), file, report, buffer)

    monkeypatch.setattr(onnxfile, "write_tensor", write)
    with pytest.raises(VerificationError) as caught:
        onnxport.convert(None, bert.source, tmp_path / "out")
    assert f"{_WORDS} differs" in caught.value.message
    assert "[101, 2]" in caught.value.message
    assert not (tmp_path / "out").exists()


# Tensors that nothing uses.


def _with_tensor(source: Path, name: str, tensor: torch.Tensor, **config: object) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(source / "model.safetensors")
    save_file(state | {name: tensor}, source / "model.safetensors", {"format": "pt"})
    document = json.loads((source / "config.json").read_text()) | config
    (source / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize("architecture", ["BertModel", "HF_ColBERT"])
def test_an_unknown_layer_is_not_lost_in_silence(tmp_path, architecture):
    """ColBERT's checkpoints have a linear layer over BERT."""
    source = save("bert-fill-mask", tmp_path / "m")
    _with_tensor(source, "linear.weight", torch.ones(4, 32), architectures=[architecture])
    with pytest.raises(CheckpointError) as caught:
        _load(source, "feature-extraction", allow_missing_weights=True)
    assert "linear.weight" in caught.value.message
    assert "--allow-unused-weights" in caught.value.hint
    allowed = _load(source, "feature-extraction", allow_missing_weights=True, allow_unused_weights=True)
    assert "linear.weight" in allowed.unused_tensors


@pytest.mark.parametrize("name", ["bert.encoder.layer.7.output.dense.weight", "bert.encoder.layer.0.extra.weight"])
def test_a_tensor_of_the_models_body_is_not_lost_in_silence(tmp_path, name):
    source = save("bert-fill-mask", tmp_path / "m")
    _with_tensor(source, name, torch.ones(32, 32))
    with pytest.raises(CheckpointError) as caught:
        _load(source)
    assert name in caught.value.message


def test_a_head_of_another_task_is_recorded(tmp_path):
    source = save("bert-text-classification", tmp_path / "m")
    found = _load(source, "feature-extraction")
    assert "classifier.weight" in found.unused_tensors
    assert "BertForSequenceClassification" in found.unused_tensors["classifier.weight"]
    assert any("classifier.weight" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bert.embeddings.position_ids", torch.arange(64)[None]),
        ("bert.encoder.layer.0.attention.rotary_emb.inv_freq", torch.ones(4)),
        ("cls.seq_relationship.weight", torch.ones(2, 32)),  # of bert-base-uncased
        ("bert.pooler.dense.weight", torch.ones(32, 32)),
        ("num_batches_tracked", torch.tensor(3)),
    ],
)
def test_what_checkpoints_often_have_is_quiet(tmp_path, name, tensor):
    source = save("bert-fill-mask", tmp_path / "m")
    _with_tensor(source, name, tensor)
    assert name in _load(source).unused_tensors


class _Heads(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.forgotten = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, both: bool = False) -> torch.Tensor:
        return self.used(x) + self.forgotten(x) if both else self.used(x)


def test_a_parameter_that_no_output_depends_on(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(CheckpointError) as caught:
        onnxport.convert("pt", _Heads(), tmp_path / "out", sample_inputs=torch.ones(2, 4))
    assert "forgotten.weight" in caught.value.message
    made = onnxport.convert("pt", _Heads(), tmp_path / "out", sample_inputs=torch.ones(2, 4), allow_unused_weights=True)
    manifest = read_folder(tmp_path / "out")
    assert manifest.unused is not None
    assert manifest.unused.parameters == dict.fromkeys(["forgotten.bias", "forgotten.weight"], NOT_READ)
    assert made.manifest.components[0].ledger.against == "model in memory"


# Graphs that are made from others.


@pytest.fixture(scope="module")
def variants(bert, tmp_path_factory):
    """The graph of BERT with weights of 4 bits and with int8 products."""
    from onnxport.graph.quantization.quantize import quantize_dynamic, write_weight_only

    root = tmp_path_factory.mktemp("variants")
    quantize_dynamic(bert.inside, root / "int8.onnx")
    write_weight_only([bert.inside], [root / "q4.onnx"], 4)
    return root


@pytest.mark.parametrize("name", ["int8", "q4"])
def test_quantized_weights_are_bounded(bert, variants, name):
    ledger = prove_derived([bert.inside], variants / f"{name}.onnx")
    assert ledger.against == "graph model"
    assert ledger.bytes[Proof.BOUNDED] > 5000
    assert ledger.bytes.get(Proof.UNPROVED, 0) < 1500


@pytest.mark.parametrize("name", ["int8", "q4"])
def test_a_changed_quantized_weight_is_named(bert, variants, tmp_path, name):
    file = tmp_path / f"{name}.onnx"
    file.write_bytes((variants / file.name).read_bytes())
    ledger = prove_derived([bert.inside], file)
    quantized = next(
        one for one in graph_tensors(file)
        if ledger.weights.get(one.name) and "quantized to" in ledger.weights[one.name].transform and one.length > 1024
    )  # fmt: skip
    data = np.memmap(file, np.uint8, "r+", quantized.offset, (quantized.length,))
    data[quantized.length // 2] += 3
    with pytest.raises(VerificationError) as caught:
        prove_derived([bert.inside], file)
    assert quantized.name in caught.value.message


def test_a_large_weight_is_compared_in_blocks(tmp_path):
    """Neither the checkpoint's tensor nor the graph's is ever in memory as a whole."""
    import onnx
    from onnx import TensorProto, helper

    from onnxport.system.memory import anonymous_bytes
    from onnxport.verification.ledger.expected import ExpectedWeight
    from onnxport.verification.ledger.prove import prove_weights
    from onnxport.verification.ledger.source_weights import SourceWeights
    from onnxport.weights.checkpoint_reader import CheckpointReader
    from onnxport.weights.stored import lazy_state_dict

    rows, columns = 2**13, 2**13
    size = 4 * rows * columns  # 256 MiB, of zeros: sparse files
    header = json.dumps({"w": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    checkpoint, data = tmp_path / "model.safetensors", tmp_path / "model.onnx_data"
    checkpoint.write_bytes(len(header).to_bytes(8, "little") + header)
    for file, length in ((checkpoint, 8 + len(header) + size), (data, size)):
        with file.open("ab") as opened:
            opened.truncate(length)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[columns, rows], data_location=1)
    for key, value in {"location": data.name, "offset": "0", "length": str(size)}.items():
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph([], "g", [], [], [tensor])
    onnx.save_model(helper.make_model(graph), tmp_path / "model.onnx")
    record = lazy_state_dict([checkpoint], "safetensors")["w"].permute([1, 0])
    peaks = []

    class Watched(SourceWeights):
        def blocks(self, record):
            for block in super().blocks(record):
                peaks.append(anonymous_bytes())
                yield block

    source = Watched({}, {}, CheckpointReader([checkpoint], "safetensors"))
    expected = {
        "w": ExpectedWeight(Proof.TRANSFORMED, "transposed 1 0", "w", "float32", (columns, rows), record=record)
    }
    before = anonymous_bytes()
    ledger = prove_weights(tmp_path / "model.onnx", expected, source)
    assert ledger.bytes == {Proof.TRANSFORMED: size}
    assert len(peaks) > 20
    assert max(peaks) - before < 128 * 2**20
    with data.open("r+b") as opened:
        opened.seek(size - 2)
        opened.write(b"\x80\x3f")
    with pytest.raises(VerificationError) as caught:
        prove_weights(tmp_path / "model.onnx", expected, source)
    assert f"[{columns - 1}, {rows - 1}]" in caught.value.message
