"""`num_logits_to_keep`: where the product with the vocabulary is found, and what the graph then gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from onnxport.errors import UsageError
from onnxport.graph.inputs import random_inputs
from onnxport.graph.last_logits import NUM_LOGITS_TO_KEEP_SPEC, axes_with_kept_logits, keep_last_logits
from onnxport.runtime.session import OnnxSession
from onnxport.specs import TensorSpec
from onnxport.tensor_names import NUM_LOGITS_TO_KEEP

_HIDDEN, _WORDS = 6, 10
_HEAD = """<ir_version: 10, opset_import: ["" : 23]>
decoder (float[batch_size, sequence_length, 6] hidden, float[batch_size, past_sequence_length] past_x)
=> (float[batch_size, sequence_length, 10] logits, float[batch_size, past_sequence_length] present_x%s)
{
    present_x = Identity(past_x)
    before = Relu(hidden)
"""
_TAILS = {
    "matmul": "logits = MatMul(before, head)",
    "capped": """
        product = MatMul(before, head)
        smaller = Div(product, cap)
        bent = Tanh(smaller)
        logits = Mul(cap, bent)""",
    "biased": """
        product = MatMul(before, head)
        logits = Add(product, bias)""",
    "shared table": """
        turned = Transpose<perm = [1, 0]>(table)
        logits = MatMul(before, turned)""",
    "gemm": """
        flat = Reshape(before, rows)
        product = Gemm<transB = 1>(flat, table)
        leading = Shape<start = 0, end = -1>(before)
        shape = Concat<axis = 0>(leading, columns)
        logits = Reshape(product, shape)""",
}
_OTHERS = {
    "softmax over tokens": """
        product = MatMul(before, head)
        logits = Softmax<axis = 1>(product)""",
    "a number a token": """
        product = MatMul(before, head)
        by_token = ReduceSum(hidden, last)
        logits = Mul(product, by_token)""",
    "of hidden and past": """
        first = MatMul(before, head)
        second = MatMul(hidden, head)
        logits = Add(first, second)""",
}


def _weights() -> dict[str, np.ndarray]:
    table = np.random.default_rng(0).standard_normal((_WORDS, _HIDDEN)).astype(np.float32)
    return {
        "head": np.ascontiguousarray(table.T), "table": table, "cap": np.array(3, np.float32),
        "bias": np.arange(_WORDS, dtype=np.float32), "rows": np.array([-1, _HIDDEN]), "columns": np.array([_WORDS]),
        "last": np.array([-1]),
    }  # fmt: skip


def _model(tail: str, more_outputs: str = "") -> ir.Model:
    model = ir.from_onnx_text(_HEAD % more_outputs + tail + "\n}")
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, array in _weights().items():
        if name in used:
            used[name].const_value = ir.tensor(array, name=name)
            used[name].shape, used[name].type = (
                ir.Shape(array.shape),
                ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            )
            model.graph.register_initializer(used[name])
    shape = ir.Shape(["batch_size", "sequence_length", _HIDDEN])
    for node in model.graph:  # as the exporter leaves them
        for value in node.outputs:
            if value.name in ("before", "product", "smaller", "bent", "first", "second") and node.op_type != "Gemm":
                size = _HIDDEN if value.name == "before" else _WORDS
                value.shape = ir.Shape([*shape[:2], size])
    return model


@pytest.mark.parametrize("kind", _TAILS)
def test_the_last_logits_are_the_last_of_all(kind: str, tmp_path: Path) -> None:
    model = _model(_TAILS[kind])
    ir.save(model, tmp_path / "before.onnx")
    assert keep_last_logits(model)
    ir.save(model, tmp_path / "after.onnx")
    before = onnxruntime.InferenceSession(tmp_path / "before.onnx")
    after = onnxruntime.InferenceSession(tmp_path / "after.onnx")
    rng = np.random.default_rng(1)
    for rows, tokens in ((1, 1), (2, 5), (3, 17)):
        feed = {
            "hidden": rng.standard_normal((rows, tokens, _HIDDEN)).astype(np.float32),
            "past_x": np.zeros((rows, 2), np.float32),
        }
        (wanted, _) = before.run(None, feed)
        assert np.array_equal(after.run(None, feed)[0], wanted)  # left out: all
        assert np.array_equal(after.run(None, feed | {NUM_LOGITS_TO_KEEP: np.array(0)})[0], wanted)
        for count in (1, 2, 40):
            found = after.run(None, feed | {NUM_LOGITS_TO_KEEP: np.array(count)})[0]
            np.testing.assert_allclose(found, wanted[:, -count:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", _OTHERS)
def test_what_is_computed_across_tokens_stays(kind: str) -> None:
    model = _model(_OTHERS[kind])
    nodes = len(model.graph)
    assert not keep_last_logits(model)
    assert len(model.graph) == nodes and len(model.graph.inputs) == 2


def test_an_intermediate_that_is_an_output_stays_whole() -> None:
    model = _model(_TAILS["capped"], ", float[batch_size, sequence_length, 10] product")
    assert not keep_last_logits(model)


def test_hidden_states_that_are_read_elsewhere_stay_whole(tmp_path: Path) -> None:
    model = _model(_TAILS["matmul"], ", float[batch_size, sequence_length, 6] before")
    assert keep_last_logits(model)
    ir.save(model, tmp_path / "m.onnx")
    feed = {"hidden": np.ones((2, 5, _HIDDEN), np.float32), "past_x": np.zeros((2, 0), np.float32)}
    logits, _, before = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(
        None, feed | {NUM_LOGITS_TO_KEEP: np.array(1)}
    )
    assert logits.shape == (2, 1, _WORDS) and before.shape == (2, 5, _HIDDEN)


def test_a_graph_that_keeps_no_past_stays() -> None:
    model = _model(_TAILS["matmul"])
    model.graph.inputs[1].name = "mask"
    assert not keep_last_logits(model)


def test_the_session_knows_that_it_may_be_left_out(tmp_path: Path) -> None:
    model = _model(_TAILS["matmul"])
    keep_last_logits(model)
    ir.save(model, tmp_path / "m.onnx")
    session = OnnxSession(tmp_path / "m.onnx")
    assert [spec.name for spec in session.inputs] == ["hidden", "past_x"]
    assert session.optional == (NUM_LOGITS_TO_KEEP_SPEC,)
    feed = {"hidden": np.ones((2, 5, _HIDDEN), np.float32), "past_x": np.zeros((2, 0), np.float32)}
    assert session.run(feed)["logits"].shape == (2, 5, _WORDS)
    assert session.run(feed | {NUM_LOGITS_TO_KEEP: 3})["logits"].shape == (2, 3, _WORDS)
    with pytest.raises(UsageError, match="no input"):
        session.run(feed | {"num_logits": 3})


def test_the_axis_has_a_name_of_its_own_and_random_inputs_ask_for_it() -> None:
    outputs = (
        TensorSpec("logits", "float32", ("batch_size", "sequence_length", 10)),
        TensorSpec("present.0.key", "float32", ("batch_size", 2, "past_sequence_length + sequence_length", 8)),
    )
    assert (
        axes_with_kept_logits(outputs)[0].axes == ("batch_size", "num_logits", 10)
        and axes_with_kept_logits(outputs)[1] == outputs[1]
    )
    assert random_inputs([NUM_LOGITS_TO_KEEP_SPEC], {"batch_size": 2}, 100, 0)[NUM_LOGITS_TO_KEEP] == 0
    assert random_inputs([NUM_LOGITS_TO_KEEP_SPEC], {"num_logits": 3}, 100, 0)[NUM_LOGITS_TO_KEEP] == 3
