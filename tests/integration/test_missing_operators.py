"""Operators that torch.onnx lacks: complex numbers of rotary positions, and inverse functions of a constant."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from onnxport.export.decompositions import decompose_where_needed
from onnxport.export.operator_table import operator_table

pytestmark = pytest.mark.integration


class Rotated(torch.nn.Module):
    """Pairs of numbers turned by angles, as llama4 turns queries; a constant as gemma3n computes it."""

    def forward(self, x):
        numbers = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        angles = torch.arange(x.shape[1], dtype=torch.float32)[None, :, None] * torch.tensor([1.0, 0.1])
        turns = torch.polar(torch.ones_like(angles), angles)[:, :, None, :]
        turned = torch.view_as_real(numbers * turns.expand(x.shape[0], -1, -1, -1))
        last = torch.view_as_real(turns[0, -1]).flatten()
        return turned.flatten(3) + last * torch.distributions.Normal(0, 1).icdf(torch.tensor(0.95))


def test_complex_numbers_and_constants_at_another_size():
    dims = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    program = torch.export.export(Rotated(), (torch.randn(2, 5, 3, 4),), dynamic_shapes=(dims,))
    with operator_table(), decompose_where_needed():
        graph = torch.onnx.export(program, args=(), opset_version=20, optimize=False).model_proto
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 9, 3, 4)).astype(np.float32))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, Rotated()(x).numpy(), atol=2e-6)
