"""What `optimize` and `quantize` make of encoders: packed attention, float16, and candidates with a budget."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport import optimize, quantize, verify
from onnxport.artifact.folder import open_folder
from onnxport.cli.main import main
from onnxport.errors import UsageError, VerificationError
from onnxport.graph.fusion.packed_attention import fuse_encoder_attention
from onnxport.verification.ledger.derived import prove_derived

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(converted, tmp_path):
    return converted("bert-text-classification").copy(tmp_path / "out")


def run(file, inputs):
    return onnxruntime.InferenceSession(file).run(None, inputs)[0]


def inputs_of(rows=4, tokens=23):
    ids = np.random.default_rng(0).integers(5, 90, (rows, tokens))
    mask = np.ones_like(ids)
    mask[0, 7:] = 0
    mask[1, :9] = 0
    mask[2] = 0  # a row that is padding alone
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": mask}


def operators(folder, name):
    return open_folder(folder).manifest.find(name).operators


def test_attention_of_an_encoder_is_one_operator_and_padding_stays_hidden(folder):
    file = optimize(folder)
    found = operators(folder, "model_optimized")
    assert found["com.microsoft::Attention"] == 2
    assert not {"Attention", "Softmax", "Where"} & found.keys()
    wanted = run(folder / "onnx" / "model.onnx", inputs_of())
    np.testing.assert_allclose(run(file, inputs_of()), wanted, atol=2e-5)
    proofs = open_folder(folder).manifest.find("model_optimized").ledger.weights
    packed = [proof.origins for proof in proofs.values() if proof.transform.startswith("packed")]
    assert len(packed) == 4  # weights and biases of two layers
    assert all(origins.count(" and ") == 2 for origins in packed)
    assert any(case.name.endswith("padded") for case in
               open_folder(folder).manifest.find("model_optimized").verification.cases)  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "operator"),
    [("deberta-v2-text-classification", "MultiHeadAttention"), ("layoutlmv3-token-classification", "Attention"),
     ("mpnet-fill-mask", "Attention"), ("swin-image-classification", "Attention"),
     ("clip-zero-shot-image-classification", "Attention")],
)  # fmt: skip
def test_all_attention_of_an_encoder_is_fused(name, operator, converted, tmp_path):
    folder = converted(name).copy(tmp_path / "out")
    before = operators(folder, "model")
    optimize(folder)
    found = operators(folder, "model_optimized")
    assert found[f"com.microsoft::{operator}"] == before.get("Attention", before.get("Softmax"))
    assert not {"Attention", "Softmax"} & found.keys()
    assert verify(folder).ok


def layer(mask, *, heads=2, width=16, opset=23):
    """One attention layer; `mask(make)` adds the nodes of its mask and returns its name."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(name, array):
        weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def make(operator, inputs, **attributes):
        name = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    constant("split", np.array([0, 0, heads, width // heads]))
    constant("merge", np.array([0, 0, width]))
    parts = []
    for kind in "qkv":
        product = make("MatMul", ["x", constant(f"{kind}.weight", rng.standard_normal((width, width), np.float32))])
        parts.append(make("Transpose", [make("Reshape", [product, "split"])], perm=[0, 2, 1, 3]))
    hidden = mask(make, constant)
    result = make("Attention", [*parts, *([hidden] if hidden else [])])
    nodes.append(helper.make_node("Reshape", [make("Transpose", [result], perm=[0, 2, 1, 3]), "merge"], ["y"]))
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "tokens", width]),
         helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["rows", "tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "tokens", width])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def distances(make, constant):
    """(1, 1, tokens, tokens): how far apart two tokens are."""
    length = make("Squeeze", [make("Shape", ["x"], start=1, end=2)])
    place = make("Range", [constant("zero", np.array(0)), length, constant("one", np.array(1))])
    column = make("Unsqueeze", [place, constant("last", np.array([1]))])
    far = make("Abs", [make("Sub", [column, place])])
    return make("Unsqueeze", [far, constant("front", np.array([0, 1]))])


def padding(make, constant):
    everywhere = make("GreaterOrEqual", [distances(make, constant), "zero"])
    seen = make("Cast", ["attention_mask"], to=TensorProto.BOOL)
    return make("And", [everywhere, make("Unsqueeze", [seen, constant("axes", np.array([1, 2]))])])


def window(make, constant):
    """Tokens see those that are at most 40 away."""
    near = make("LessOrEqual", [distances(make, constant), constant("forty", np.array(40))])
    seen = make("Cast", ["attention_mask"], to=TensorProto.BOOL)
    return make("And", [near, make("Unsqueeze", [seen, constant("axes", np.array([1, 2]))])])


def nothing(make, constant):
    everywhere = make("GreaterOrEqual", [distances(make, constant), "zero"])
    return make("Where", [everywhere, constant("no", np.float32(0)), constant("low", np.float32(-3e38))])


@pytest.mark.parametrize(("mask", "kind"), [(padding, "padding"), (window, "other"), (nothing, "nothing")])
def test_masks_are_told_apart_by_what_they_hide(mask, kind, tmp_path):
    model = layer(mask)
    fused = ir.from_proto(model)
    found = fuse_encoder_attention(fused)
    assert found.masks == {kind: 1}
    x = np.random.default_rng(1).standard_normal((3, 61, 16), np.float32)
    seen = np.ones((3, 61), np.int64)
    seen[1, 50:] = 0
    given = {"x": x, "attention_mask": seen}
    before, after = (
        onnxruntime.InferenceSession(one.SerializeToString()) for one in (model, ir.to_proto(fused))
    )  # fmt: skip
    known = {one.name for one in after.get_inputs()}
    (wanted,), (got,) = before.run(None, given), after.run(None, {k: v for k, v in given.items() if k in known})
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_float16_takes_and_gives_float32_and_weights_are_proved(folder):
    file = quantize(folder, "fp16")
    assert file == folder / "onnx" / "model_fp16.onnx"
    assert file.stat().st_size < 0.6 * (folder / "onnx" / "model.onnx").stat().st_size
    wanted = run(folder / "onnx" / "model.onnx", inputs_of())
    found = run(file, inputs_of())
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 1e-2 * np.abs(wanted).max()
    component = open_folder(folder).manifest.find("model_fp16")
    assert component.precision == "float16"
    assert sum("rounded to float16" in proof.transform for proof in component.ledger.weights.values()) > 20
    assert verify(folder).ok


def half_model(tmp_path, scale):
    """Large values between two products, as in T5: the second makes them small again."""
    rng = np.random.default_rng(0)
    first = (rng.standard_normal((32, 32)) * scale).astype(np.float32)
    second = (rng.standard_normal((32, 32)) / scale).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "first"], ["large"]), helper.make_node("Relu", ["large"], ["positive"]),
         helper.make_node("MatMul", ["positive", "second"], ["small"]), helper.make_node("Tanh", ["small"], ["y"])],
        "half", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 32])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )  # fmt: skip
    file = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), file)
    return file


def test_what_overflows_in_float16_stays_float32(tmp_path):
    file = half_model(tmp_path, 30_000.0)
    half = quantize(file, "fp16")
    types = {one.name: one.data_type for one in onnx.load(half).graph.initializer}
    assert set(types) == {"first", "second"}
    assert set(types.values()) == {TensorProto.FLOAT}
    x = np.random.default_rng(1).standard_normal((5, 32), np.float32)
    np.testing.assert_allclose(run(half, {"x": x}), run(file, {"x": x}), atol=5e-3)


def test_a_weight_that_is_not_the_rounded_one_is_found(tmp_path):
    file = half_model(tmp_path, 1.0)
    half = quantize(file, "fp16")
    model = onnx.load(half)
    tensor = model.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    assert values.dtype == np.float16
    values[3, 4] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, half)
    with pytest.raises(VerificationError):
        prove_derived([file], half)


def test_the_fastest_candidate_within_the_budget_is_kept_and_recorded(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat sat\nthe dog ran away\n" * 10, encoding="utf-8")
    assert (
        main(["optimize", str(folder), "--for", "webgpu", "--max-loss", "2%", "--data", str(texts), "--explain"]) == 0
    )
    printed = capsys.readouterr()
    assert "model_q4f16.onnx" in printed.out
    assert "chosen" in printed.err
    assert "sum and norm" in printed.err
    tuning = open_folder(folder).manifest.tuning
    assert [one.precision for one in tuning.candidates] == ["float32", "float16", "q4f16"]
    assert tuning.candidates[2].chosen  # the smallest: no speed was measured
    assert all(one.loss.inputs == "20 texts" and one.loss.measure == "decisions" for one in tuning.candidates)
    assert tuning.candidates[0].loss.mean == 0
    assert tuning.measured_on == ""
    assert "Speed, size and loss" in (folder / "README.md").read_text(encoding="utf-8")
    assert [one.name for one in open_folder(folder).manifest.components] == ["model", "model_q4f16"]
    assert verify(folder).ok
    with pytest.raises(UsageError):
        optimize(folder, for_="tpu", precision="auto")


@pytest.mark.sweep
def test_speed_decides_where_it_can_be_measured(folder):
    optimize(folder, for_="cpu", precision="auto", max_loss=0.5)
    tuning = open_folder(folder).manifest.tuning
    wanted = ["float32", "float32", "int8", "int8-static", "int8-weights", "int4"]
    assert [one.precision for one in tuning.candidates] == wanted
    usable = [one for one in tuning.candidates if one.components]
    assert all(one.of_base > 0 and one.loss.count > 100 for one in usable)
    assert sum(one.chosen for one in tuning.candidates) == 1
