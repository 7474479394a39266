"""Attention in the forms in which models export it becomes one operator, and gives the same numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.graph.fusion.packed_attention import fuse_encoder_attention
from onnxport.variants.fusion_reasons import explain_fusions

HEADS, WIDTH = 2, 16
SIZE = WIDTH // HEADS
LOW = np.float32(np.finfo(np.float32).min)


class Graph:
    """Nodes, weights, and the inputs x (rows, tokens, 16), other (rows, more, 16) and attention_mask (rows, tokens)."""

    def __init__(self):
        self.nodes, self.weights, self.infos, self.rng = [], [], [], np.random.default_rng(0)

    def constant(self, array, dtype=None):
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [f"{kind.lower()}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def known(self, name, *shape):
        """A shape that exporters record, and that onnx alone does not infer."""
        self.infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def linear(self, data, out=WIDTH):
        weight = self.constant(self.rng.standard_normal((WIDTH, out)) * 0.3, np.float32)
        return self.op("Add", self.op("MatMul", data, weight), self.constant(self.rng.standard_normal(out), np.float32))

    def heads(self, flat):
        return self.op("Transpose", self.op("Reshape", flat, self.constant([0, 0, HEADS, SIZE])), perm=[0, 2, 1, 3])

    def merged(self, result):
        flat = self.op("Reshape", self.op("Transpose", result, perm=[0, 2, 1, 3]), self.constant([0, 0, WIDTH]))
        self.nodes.append(helper.make_node("Identity", [flat], ["y"]))

    def model(self):
        inputs = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "tokens", WIDTH]),
            helper.make_tensor_value_info("other", TensorProto.FLOAT, ["rows", "more", WIDTH]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["rows", "tokens"]),
        ]
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "tokens", WIDTH])
        graph = helper.make_graph(self.nodes, "layer", inputs, [result], self.weights, value_info=self.infos)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, data_prop=True)

    def hidden(self):
        """(rows, 1, tokens, tokens): true where a token or the one that it looks at is padding."""
        seen = self.op("Cast", "attention_mask", to=TensorProto.BOOL)
        pair = self.op("And", self.op("Unsqueeze", seen, self.constant([1, 2])),
                       self.op("Unsqueeze", seen, self.constant([1, 3])))  # fmt: skip
        return self.op("Not", pair)


def heads_in_rows(graph):
    """DeBERTa: heads are a part of the rows, scores get a product of their queries added, and a mask replaces them."""
    query, key, value = (graph.heads(graph.linear("x")) for _ in range(3))
    length = graph.op("Shape", "x", start=1, end=2)
    shape = graph.op("Concat", graph.constant([-1]), length, graph.constant([SIZE]), axis=0)
    query, key, value = (graph.known(graph.op("Reshape", one, shape), "2*rows", "tokens", SIZE)
                         for one in (query, key, value))  # fmt: skip
    scores = graph.op("MatMul", query, graph.op("Div", graph.op("Transpose", key, perm=[0, 2, 1]),
                                                graph.constant(np.float32(5.0))))  # fmt: skip
    bias = graph.op("Mul", graph.op("MatMul", key, graph.op("Transpose", query, perm=[0, 2, 1])),
                    graph.constant(np.float32(0.3)))  # fmt: skip
    bias = graph.known(graph.op("Transpose", bias, perm=[0, 2, 1]), "2*rows", "tokens", "tokens")
    scores = graph.known(graph.op("Add", scores, bias), "2*rows", "tokens", "tokens")
    four = graph.op("Concat", graph.constant([-1, HEADS]), length, length, axis=0)
    scores = graph.op("Where", graph.hidden(), graph.constant(LOW),
                      graph.known(graph.op("Reshape", scores, four), "rows", HEADS, "tokens", "tokens"))  # fmt: skip
    whole = graph.op("Softmax", scores, axis=-1)
    three = graph.op("Concat", graph.constant([-1]), length, length, axis=0)
    result = graph.op("MatMul", graph.known(graph.op("Reshape", whole, three), "2*rows", "tokens", "tokens"), value)
    back = graph.op("Concat", graph.constant([-1, HEADS]), length, graph.constant([SIZE]), axis=0)
    return graph.known(graph.op("Reshape", result, back), "rows", HEADS, "tokens", SIZE)


def shifted_scores(graph):
    """LayoutLMv3: scores and bias are divided, their largest is subtracted, and the rest is multiplied again."""
    query, key, value = (graph.heads(graph.linear("x")) for _ in range(3))
    scores = graph.op("MatMul", graph.op("Div", query, graph.constant(np.float32(SIZE**0.5))),
                      graph.op("Transpose", key, perm=[0, 1, 3, 2]))  # fmt: skip
    mask = graph.op("Where", graph.hidden(), graph.constant(LOW), graph.constant(np.float32(0)))
    scores = graph.op("Div", graph.op("Add", scores, mask), graph.constant(np.float32(32)))
    largest = graph.op("ReduceMax", scores, graph.constant([-1]), keepdims=1)
    scores = graph.op("Mul", graph.op("Sub", scores, largest), graph.constant(np.float32(32)))
    return graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)


def parts_of_one_product(graph):
    whole = graph.op("Reshape", graph.linear("x", 3 * WIDTH), graph.constant([0, 0, 3, HEADS, SIZE]))
    parts = [graph.op("Gather", whole, graph.constant(index), axis=2) for index in range(3)]
    return graph.op("Attention", *(graph.op("Transpose", part, perm=[0, 2, 1, 3]) for part in parts), scale=0.4)


def rotated(graph):
    query, key, value = (graph.heads(graph.linear("x")) for _ in range(3))
    length = graph.op("Squeeze", graph.op("Shape", "x", start=1, end=2))
    places = graph.op("Cast", graph.op("Range", graph.constant(0), length, graph.constant(1)), to=TensorProto.FLOAT)
    angles = graph.op("Mul", graph.op("Unsqueeze", places, graph.constant([1])),
                      graph.constant(0.5 ** np.arange(SIZE // 2), np.float32))  # fmt: skip
    rows = graph.op("Concat", graph.op("Shape", "x", start=0, end=1), graph.constant([1, 1]), axis=0)
    tables = [graph.op("Expand", graph.op("Unsqueeze", graph.op(kind, angles), graph.constant([0])), rows)
              for kind in ("Cos", "Sin")]  # fmt: skip
    query, key = (graph.op("RotaryEmbedding", one, *tables) for one in (query, key))
    return graph.op("Attention", query, key, value)


def two_inputs(graph):
    query = graph.op("Mul", graph.linear("x"), graph.constant(np.float32(0.2)))
    key, value = graph.linear("other"), graph.linear("other")
    return graph.op("Attention", graph.heads(query), graph.heads(key), graph.heads(value), scale=1.0)


def causal(graph):
    """CLIP's texts: rows that see no token become zeros."""
    query, key, value = (graph.heads(graph.linear("x")) for _ in range(3))
    length = graph.op("Squeeze", graph.op("Shape", "x", start=1, end=2))
    places = graph.op("Range", graph.constant(0), length, graph.constant(1))
    earlier = graph.op("LessOrEqual", places, graph.op("Unsqueeze", places, graph.constant([1])))
    seen = graph.op("Unsqueeze", graph.op("Cast", "attention_mask", to=TensorProto.BOOL), graph.constant([1, 2]))
    visible = graph.op("And", graph.op("Unsqueeze", earlier, graph.constant([0, 1])), seen)
    mask = graph.op("Mul", graph.op("Cast", graph.op("Not", visible), to=TensorProto.FLOAT), graph.constant(LOW))
    mask = graph.known(mask, "rows", 1, "tokens", "tokens")
    count = graph.op("ReduceSum", graph.op("Cast", visible, to=TensorProto.FLOAT), graph.constant([-1]), keepdims=1)
    count = graph.known(count, "rows", 1, "tokens", 1)
    result = graph.op("Attention", query, key, value, mask)
    return graph.op("Where", graph.op("Less", count, graph.constant(np.float32(1))), graph.constant(np.float32(0)),
                    result)  # fmt: skip


@pytest.mark.parametrize(
    ("form", "operator", "hides"),
    [(heads_in_rows, "MultiHeadAttention", "other"), (shifted_scores, "Attention", "other"),
     (parts_of_one_product, "Attention", "nothing"), (rotated, "MultiHeadAttention", "nothing"),
     (two_inputs, "MultiHeadAttention", "nothing"), (causal, "Attention", "other")],
)  # fmt: skip
def test_forms_of_attention_become_one_operator(form, operator, hides):
    graph = Graph()
    graph.merged(form(graph))
    model = graph.model()
    fused = ir.from_proto(model)
    found = fuse_encoder_attention(fused)
    assert (found.masks, found.left) == ({hides: 1}, {})
    kinds = Counter((node.domain, node.op_type) for node in fused.graph)
    assert kinds["com.microsoft", operator] == 1
    assert not kinds["", "Softmax"] + kinds["", "Attention"]
    sessions = [onnxruntime.InferenceSession(one.SerializeToString()) for one in (model, ir.to_proto(fused))]
    rng = np.random.default_rng(1)
    for rows, tokens in ((1, 1), (3, 37)):
        mask = np.ones((rows, tokens), np.int64)
        mask[1:2, tokens // 2 :] = 0
        mask[2:, : tokens // 3] = 0
        given = {"x": rng.standard_normal((rows, tokens, WIDTH), np.float32), "attention_mask": mask,
                 "other": rng.standard_normal((rows, 5, WIDTH), np.float32)}  # fmt: skip
        wanted, got = (
            one.run(None, {value.name: given[value.name] for value in one.get_inputs()})[0] for one in sessions
        )
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_attention_that_is_left_and_norms_are_explained(tmp_path):
    graph = Graph()
    query, key, value = (graph.heads(graph.linear("x")) for _ in range(3))
    capped = graph.op("Attention", query, key, value, softcap=3.0)
    flat = graph.op("Reshape", graph.op("Transpose", capped, perm=[0, 2, 1, 3]), graph.constant([0, 0, WIDTH]))
    total = graph.op("Add", flat, "x")
    norm = graph.op("LayerNormalization", total, graph.constant(np.ones(WIDTH), np.float32))
    graph.nodes.append(helper.make_node("Add", [total, graph.op("Gelu", norm)], ["y"]))
    file = tmp_path / "model.onnx"
    onnx.save(graph.model(), file)
    attention, norms, gelus = explain_fusions(file, tmp_path)
    assert [kind.places for kind in (attention, norms, gelus)] == [0, 0, 0]
    assert list(attention.left) == [capped]
    assert "capped" in attention.left[capped]
    assert "by Add" in norms.left[norm]
    assert "LayerNormalization" in next(iter(gelus.left.values()))
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]
