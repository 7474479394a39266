"""A decoder of fixed sizes: whatever comes in whatever parts, the graph sees the text's own tokens in their order.

The graph is a small one that can be computed by hand: its keys are token numbers, and the logit of a token is the
sum of all numbers that it sees.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxport.errors import UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.static_axes import STATIC_AXES_KEY, StaticAxes, read_static_axes

KEY = "past_key_values.0.key"


def fixed_axes(rows, new, past, **changes):
    state = ("batch_size", 1, "past_sequence_length", 1)
    axes = {
        "input_ids": ("batch_size", "sequence_length"), "attention_mask": ("batch_size", "total_sequence_length"),
        KEY: state, "present.0.key": state, "logits": ("batch_size", "sequence_length", 1),
    }  # fmt: skip
    given_sizes = {"batch_size": rows, "sequence_length": new, "past_sequence_length": past}
    values = {"past_axis": "past_sequence_length"} | changes
    return StaticAxes(
        "model_fixed.onnx", axes, given_sizes | {"total_sequence_length": past + new}, given_sizes, **values
    )


def write(path, rows, new, past):
    """The graph: present is the last `past` of all keys."""
    numbers = {
        "heads": [1], "last": [3], "start": [new], "end": [past + new], "axis": [2], "first": [past], "two": 2,
    }  # fmt: skip
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "heads"], ["with_heads"]),
        helper.make_node("Unsqueeze", ["with_heads", "last"], ["keys"]),
        helper.make_node("Concat", [KEY, "keys"], ["whole"], axis=2),
        helper.make_node("Slice", ["whole", "start", "end", "axis"], ["present.0.key"]),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seen", "heads"], ["seen_heads"]),
        helper.make_node("Unsqueeze", ["seen_heads", "last"], ["seen_keys"]),
        helper.make_node("Mul", ["whole", "seen_keys"], ["masked"]),
        helper.make_node("CumSum", ["masked", "two"], ["sums"]),
        helper.make_node("Slice", ["sums", "first", "end", "axis"], ["of_new"]),
        helper.make_node("Squeeze", ["of_new", "heads"], ["logits"]),
    ]
    ints = {"input_ids": [rows, new], "attention_mask": [rows, past + new]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in ints.items()]
    state = [rows, 1, past, 1]
    inputs.append(helper.make_tensor_value_info(KEY, TensorProto.FLOAT, state))
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [rows, new, 1]),
        helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, state),
    ]
    graph = helper.make_graph(nodes, "window", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {STATIC_AXES_KEY: fixed_axes(rows, new, past).to_json()})
    onnx.save(model, path)


@given(
    rows=st.integers(1, 3), new=st.integers(1, 5), more=st.integers(0, 9), used=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9), padding=st.integers(0, 4),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
@pytest.mark.slow
def test_all_that_a_token_sees_is_the_text(tmp_path_factory, rows, new, more, used, lengths, padding):
    past, used = new + more, min(used, rows)
    file = tmp_path_factory.mktemp("window") / "model_fixed.onnx"
    write(file, rows, new, past)
    decoder = Decoder(OnnxSession(file, threads=1))
    ids = np.random.default_rng(sum(lengths)).integers(1, 100, (used, sum(lengths)))
    mask = np.ones_like(ids)
    mask[-1, : min(padding, lengths[0])] = 0
    sums = (ids * mask).cumsum(1)
    progress, end = decoder.start(used), 0
    for length in lengths:
        now = slice(end, end + length)
        end += length
        if end > past + new:
            with pytest.raises(UsageError, match=f"has {end} tokens .* sees {past + new} at most"):
                decoder.step(progress, ids[:, now], mask[:, now])
            break
        logits = decoder.step(progress, ids[:, now], mask[:, now])
        assert logits.shape == (used, 1)
        np.testing.assert_array_equal(logits[:, 0], sums[:, end - 1])
        assert progress.mask.shape == (used, end)


def test_rows_change_places_and_multiply(tmp_path):
    write(tmp_path / "model_fixed.onnx", 4, 3, 5)
    decoder = Decoder(OnnxSession(tmp_path / "model_fixed.onnx"))
    progress = decoder.start(2)
    before = progress.states
    decoder.step(progress, np.array([[1, 2, 3, 4, 5], [10, 20, 30, 40, 50]]))
    assert not before[KEY].numpy().any()  # what was there before can be gone back to
    decoder.step(progress, np.array([[6], [60]]))  # given again from now on: the window is full
    decoder.select(progress, np.array([1, 0, 1]))
    assert decoder.step(progress, np.array([[7], [8], [9]]))[:, 0].tolist() == [217, 29, 219]
    with pytest.raises(UsageError, match="There are 5 rows"):
        decoder.select(progress, np.array([0, 0, 1, 1, 2]))
    with pytest.raises(UsageError, match=r"5 rows .* fixed at 4") as caught:
        decoder.start(5)
    assert "--sizes batch_size=5,past_sequence_length=5,sequence_length=3" in str(caught.value.hint)


def test_recurrent_states_of_a_static_graph(tmp_path):
    """One token a call, whose state is the sum of all tokens; padding leaves it as it is."""
    state = "past_recurrent.0"
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Add", [state, "numbers"], ["present_recurrent.0"]),
        helper.make_node("Unsqueeze", ["present_recurrent.0", "last"], ["logits"]),
    ]
    values = {"input_ids": (TensorProto.INT64, [2, 1]), state: (TensorProto.FLOAT, [2, 1])}
    inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in values.items()]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 1, 1]),
        helper.make_tensor_value_info("present_recurrent.0", TensorProto.FLOAT, [2, 1]),
    ]
    last = numpy_helper.from_array(np.array([2], np.int64), "last")
    model = helper.make_model(
        helper.make_graph(nodes, "sum", inputs, outputs, [last]), opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )  # fmt: skip
    axes = {"input_ids": ("batch_size", 1), state: ("batch_size", 1), "present_recurrent.0": ("batch_size", 1)}
    static = StaticAxes("sum.onnx", axes, {"batch_size": 2}, {"batch_size": 2})
    helper.set_model_props(model, {STATIC_AXES_KEY: static.to_json()})
    onnx.save(model, tmp_path / "sum.onnx")
    decoder = Decoder(OnnxSession(tmp_path / "sum.onnx"))
    progress = decoder.start(2)
    ids, mask = np.array([[1, 2, 3], [10, 20, 30]]), np.array([[1, 1, 1], [0, 0, 1]])
    assert decoder.step(progress, ids, mask)[:, 0].tolist() == [6, 30]
    assert decoder.step(progress, np.array([[4], [40]]))[:, 0].tolist() == [10, 70]
    decoder.select(progress, np.array([1, 1]))
    assert decoder.step(progress, np.array([[5], [6]]))[:, 0].tolist() == [75, 76]
    for start in (lambda: decoder.start(3), lambda: decoder.select(progress, np.array([0]))):
        with pytest.raises(UsageError, match=r"batch_size is \d, and sum\.onnx is fixed at 2"):
            start()


def test_the_command_for_a_longer_window(tmp_path):
    write(tmp_path / "model_fixed.onnx", 1, 1, 7)
    decoder = Decoder(OnnxSession(tmp_path / "model_fixed.onnx"))
    with pytest.raises(UsageError) as caught:
        decoder.step(decoder.start(1), np.ones((1, 20), np.int64))
    assert "past_sequence_length=19" in str(caught.value.hint)


def test_what_is_in_the_metadata_is_what_was_meant():
    changes = {"padded": frozenset(["batch_size"]), "pad_values": {"input_ids": 7}, "added_inputs": frozenset(["a"])}
    said = fixed_axes(2, 3, 9, **changes)
    assert read_static_axes({STATIC_AXES_KEY: said.to_json()}, said.file) == said
    assert read_static_axes({}, "model.onnx") is None
    assert json.loads(said.to_json())["sizes"]["total_sequence_length"] == 12


def test_folders_of_earlier_versions_are_read():
    """Their key, and the names in its JSON, stay as they are."""
    value = {
        "axes": {"ids": ["batch", 3]}, "sizes": {"batch": 2}, "given": {"batch": 2}, "padded": ["batch"],
        "fill": {"ids": 7}, "window": None, "graph": "decoder", "added": ["mask"],
    }  # fmt: skip
    found = read_static_axes({"onnxport.fixed": json.dumps(value)}, "f.onnx")
    assert found == StaticAxes(
        "f.onnx", {"ids": ("batch", 3)}, {"batch": 2}, {"batch": 2}, frozenset(["batch"]), {"ids": 7}, None, "decoder",
        frozenset(["mask"]),
    )  # fmt: skip
    assert json.loads(found.to_json()) == value


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 4), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_what_is_filled_up_is_cut_off_again(rows, tokens, most_rows, most_tokens):
    axes = {"ids": ("batch", "tokens"), "sums": ("batch", "2 * tokens + 1", 3)}
    fixed = StaticAxes(
        "f.onnx", axes, {"batch": most_rows, "tokens": most_tokens}, {"batch": most_rows, "tokens": most_tokens},
        frozenset(axes["ids"]), {"ids": 9},
    )  # fmt: skip
    ids = np.arange(rows * tokens).reshape(rows, tokens)
    if rows > most_rows or tokens > most_tokens:
        with pytest.raises(UsageError, match="is fixed at"):
            fixed.pad("ids", ids)
        return
    whole = fixed.pad("ids", ids)
    assert whole.shape == (most_rows, most_tokens)
    np.testing.assert_array_equal(whole[:rows, :tokens], ids)
    assert (whole[:, tokens:] == 9).all()
    np.testing.assert_array_equal(whole[rows:], whole[rows - 1 : rows].repeat(most_rows - rows, 0))
    outputs = {"sums": np.zeros((most_rows, 2 * most_tokens + 1, 3))}
    assert fixed.unpad(outputs, fixed.sizes_of({"ids": ids}))["sums"].shape == (rows, 2 * tokens + 1, 3)


def test_an_axis_that_may_not_be_filled_up():
    fixed = StaticAxes("f.onnx", {"x": ("a", "b")}, {"a": 3, "b": 4}, {"a": 3, "b": 4}, frozenset(["a"]))
    with pytest.raises(UsageError, match=r"b is 2, and f\.onnx is fixed at 4; padding this axis would change"):
        fixed.pad("x", np.zeros((3, 2)))
    with pytest.raises(UsageError, match="a is 0"):
        fixed.pad("x", np.zeros((0, 4)))
