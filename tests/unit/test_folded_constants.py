"""Constants that an optimizer computed ahead of time are computed again, within bounds, and compared."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.errors import VerificationError
from onnxport.formats.graph_tensors import graph_tensors
from onnxport.verification.ledger.derived import prove_derived
from onnxport.verification.ledger.folded import FoldedValues


def table_model(file, nodes, weights, size=40):
    """x plus a table, which `nodes` compute from the weights, or which is one of them."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size, size]) for name in "xy"]
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    last = helper.make_node("Add", ["x", "table"], ["y"])
    graph = helper.make_graph([*nodes, last], "table", sides[:1], sides[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return file


def test_constants_computed_ahead_of_time_are_computed_again(tmp_path):
    """The square of a weight in another order, beside numbers whose rounding is larger than all of its elements."""
    weight = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    seen = np.arange(40) < 30
    nodes = [helper.make_node("MatMul", ["weight", "weight"], ["product"]),
             helper.make_node("Transpose", ["product"], ["turned"]),
             helper.make_node("Mul", ["turned", "large"], ["hidden"]),
             helper.make_node("Where", ["seen", "turned", "hidden"], ["table"])]  # fmt: skip
    large = np.float32(1e30)
    base = table_model(tmp_path / "base.onnx", nodes, {"weight": weight, "seen": seen, "large": large})
    square = (weight.astype(np.float64) @ weight).T
    table = np.where(seen, square, square * large).astype(np.float32)
    ledger = prove_derived([base], table_model(tmp_path / "folded.onnx", [], {"table": table}))
    proof = ledger.weights["table"]
    assert (proof.proof, proof.origins) == ("computed", "large and seen and weight")
    table[3, 5] += 0.05
    with pytest.raises(VerificationError):
        prove_derived([base], table_model(tmp_path / "wrong.onnx", [], {"table": table}))


def endless(inner):
    """A loop of 2**62 turns around a node."""
    value = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), inner], "body",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("before", TensorProto.FLOAT, None)],
        [value, helper.make_tensor_value_info("after", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return helper.make_node("Loop", ["turns", "", "weight"], ["table"], body=body)


HOSTILE = {
    "memory": [helper.make_node("Expand", ["weight", "large"], ["whole"]),
               helper.make_node("ReduceMax", ["whole", "first"], ["table"], keepdims=0)],
    "time": [helper.make_node("Tile", ["weight", "often"], ["row"]),
             helper.make_node("MatMul", ["weight", "row"], ["product"]),
             helper.make_node("Slice", ["product", "zeros", "forty"], ["part"]),
             helper.make_node("Neg", ["weight"], ["negative"]),
             helper.make_node("Where", ["no", "part", "negative"], ["table"])],
    "nodes": [helper.make_node("Neg", [f"n_{n}" if n else "weight"], [f"n_{n + 1}" if n < 500 else "table"])
              for n in range(501)],
    "loop": [endless(helper.make_node("Identity", ["before"], ["after"]))],
    "random": [helper.make_node("RandomNormalLike", ["weight"], ["table"])],
    "another library": [helper.make_node("Neg", ["weight"], ["table"], domain="example.com")],
    "wrong": [helper.make_node("MatMul", ["weight", "often"], ["table"])],
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_takes_much_or_is_not_known_is_not_computed(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxport.verification.ledger.folded._MOST_WORK", 2**24)
    weight = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    sizes = {"large": [2**30, 40, 40], "first": [0], "turns": 2**62, "often": [1, 2**15], "zeros": [0, 0],
             "forty": [40, 40]}  # fmt: skip
    weights = {"weight": weight, "no": np.array(False)}
    weights |= {name: np.array(value, np.int64) for name, value in sizes.items()}
    file = table_model(tmp_path / "base.onnx", HOSTILE[kind], weights)
    (table,) = (one for one in graph_tensors(table_model(tmp_path / "new.onnx", [], {"table": -weight}))
                if one.name == "table")  # fmt: skip
    started = time.process_time()
    assert FoldedValues([file], [graph_tensors(file)]).weights_behind(table) is None
    assert time.process_time() - started < 5
