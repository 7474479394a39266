"""The parts of the search for the first difference: matching of values, and what depends on what."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxport.formats.graph_file import read_graph_file
from onnxport.specs import Difference
from onnxport.verification.localisation.describe import difference_lines
from onnxport.verification.localisation.matching import References, is_telling
from onnxport.verification.localisation.region import Region


def arrays(count=6, size=40):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, size)).astype(np.float32) for _ in range(count)]


def test_the_counterpart_is_found_in_another_shape():
    known = arrays()
    found = References(known).nearest(known[3].reshape(8, 10))
    assert (found.index, found.error) == (3, 0.0)


def test_the_counterpart_of_a_value_that_is_wrong_in_one_row():
    known = arrays()
    value = known[2].copy()
    value[0, :3] += 50
    found = References(known).nearest(value)
    assert found.index == 2
    assert found.error == pytest.approx(50 / np.abs(known[2]).max(), rel=1e-3)


def test_images_with_their_channels_last():
    image = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype(np.float32)
    value = np.ascontiguousarray(np.moveaxis(image, -1, 1))
    assert References([image], moved=True).nearest(value).error == 0
    assert References([image]).nearest(value).error > 0.1


def test_whole_numbers_and_sizes_are_told_apart():
    known = References([np.arange(12), np.arange(12, dtype=np.float32)])
    assert known.nearest(np.arange(12, dtype=np.float32)).index == 1
    assert known.nearest(np.arange(12)).index == 0
    assert known.nearest(np.arange(13)) is None


def test_numbers_that_stand_for_masked_are_equal():
    mask = np.array([0, 0, -np.inf, 0, np.finfo(np.float32).min, 0.5], np.float32)
    other = np.array([0, 0, np.finfo(np.float32).min, 0, -np.inf, 0.5], np.float32)
    assert References([mask]).nearest(other).error == 0
    assert References([mask]).nearest(np.where(mask < -1, 0, mask)).error > 1


def test_what_tells_nothing():
    assert not is_telling(np.ones((3, 4)))
    assert not is_telling(np.array([1.0, 2.0]))
    assert is_telling(np.array([1.0, 2.0, 1.0, 1.0]))


@pytest.fixture
def region(tmp_path):
    """a -> b -> c (wrong), and b's shape is read by d, which leads to another output."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Shape", ["b"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["d"]),
        helper.make_node("Neg", ["b"], ["c"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xcd"]
    graph = helper.make_graph(nodes, "main", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "g.onnx")
    return Region(read_graph_file(tmp_path / "g.onnx"))


def test_nodes_before_equal_values_are_cleared(region):
    assert region.suspects(["c"], []) == [0, 1, 4]
    assert region.suspects(["c"], ["a"]) == [1, 4]
    assert region.suspects(["c"], ["b"]) == [4]


def test_a_value_whose_shape_alone_is_read_is_not_cleared(region):
    assert region.suspects(["c"], ["d"]) == [0, 1, 4]


def test_the_finding_is_five_lines():
    found = Difference(
        "traced", {"batch_size": 2}, "encoder.0", "Linear", "node_1", "MatMul", "v", (2, 8), 2e-7, 0.3, ("mask-rows",)
    )  # fmt: skip
    lines = difference_lines(found)
    assert len(lines) == 5
    text = "\n".join(lines)
    for part in ("encoder.0 (Linear)", "MatMul node_1", "(2, 8)", "batch_size 2", "2.0e-07", "3.0e-01", "mask-rows"):
        assert part in text
    assert "no layers" in "\n".join(difference_lines(Difference("traced", {}, note="it has no layers")))
