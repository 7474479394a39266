"""Epsilons of normalizations in a graph are those of the source's modules."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import nn

from onnxport.api.build_graph import build_graph
from onnxport.errors import VerificationError
from onnxport.export.signature import infer_signature
from onnxport.loading.model_to_export import from_module
from onnxport.loading.options import LoadOptions
from onnxport.verification.ledger.graph_weights import expect_weights, record_weights


class Norms(nn.Module):
    """A normalization that stays, and one that is folded into a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.batch, self.layer = nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4, eps=1e-3), nn.LayerNorm(4, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.layer(self.batch(self.conv(x)).mT)
        return hidden


def _expect(change=lambda model, graph: None, module: nn.Module | None = None):
    module = Norms() if module is None else module
    to_export = from_module(module, torch.randn(2, 4, 9), LoadOptions())
    sources = record_weights(to_export)
    part = to_export.parts[0]
    graph = build_graph(part.source, infer_signature(part.source, part.generator), 23)
    change(module, graph)
    return expect_weights(to_export, sources, [graph])


def _in_graph(model, graph) -> None:
    node = next(node for node in graph.model.graph if node.op_type == "LayerNormalization")
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [(_in_graph, "LayerNormalization of layer"),
     (lambda model, graph: setattr(model.batch, "eps", 1e-4), "BatchNormalization of batch")],
    ids=["stays", "folded"],
)  # fmt: skip
def test_another_epsilon_is_named(change, words):
    with pytest.raises(VerificationError) as caught:
        _expect(change)
    assert words in caught.value.message


def test_the_same_epsilons_are_sound():
    (weights,) = _expect()
    assert {"batch.weight", "layer.weight"} <= weights.used
