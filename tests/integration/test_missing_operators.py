"""Operators that torch.onnx lacks (complex numbers, functions of constants), and code that makes a length static."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from onnxport import convert
from onnxport.export.decompositions import decompose_where_needed
from onnxport.export.fixes import trace_fixes
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


class Blocks(torch.nn.Module):
    """The local layer of canine, with blocks of 4 tokens, and the pooling of its mask."""

    def __init__(self):
        super().__init__()
        from transformers import CanineConfig
        from transformers.models.canine.modeling_canine import CanineAttention

        torch.manual_seed(0)
        config = CanineConfig(hidden_size=8, num_attention_heads=2)
        sizes = dict.fromkeys(("attend_from_chunk_width", "attend_from_chunk_stride", "attend_to_chunk_width",
                               "attend_to_chunk_stride"), 4)  # fmt: skip
        self.layer = CanineAttention(config, local=True, **sizes)
        self.pool = torch.nn.MaxPool1d(2)

    def forward(self, x, mask):
        pooled = self.pool(mask[:, None].float())[:, 0]
        return self.layer(x, mask[:, None].float() * torch.ones_like(mask)[:, :, None])[0], pooled


def test_blocks_and_pooling_at_any_length():
    module = Blocks().eval()
    dims = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens", min=4)}
    x, mask = torch.randn(2, 9, 8), torch.ones((2, 9), dtype=torch.int64)
    with trace_fixes(module):
        program = torch.export.export(module, (x, mask), dynamic_shapes=(dims, dims), strict=False)
    x, mask = torch.randn(3, 14, 8), torch.ones((3, 14), dtype=torch.int64)
    mask[1, 6:], mask[2, 2:9] = 0, 0  # a whole block without a token
    for found, wanted in zip(program.module()(x, mask), module(x, mask), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["glm_moe_dsa.text-generation", "rt_detr_v2.image-feature-extraction"])
def test_caches_of_an_indexer_and_sizes_of_images(name, tmp_path):
    from benchmarks.coverage.check import check
    from benchmarks.coverage.checkpoints import build
    from benchmarks.coverage.pairs import every_pair

    pair = next(pair for pair in every_pair({name.partition(".")[0]}) if pair.name == name)
    build(pair, tmp_path / "source")
    conversion = convert(None, tmp_path / "source", tmp_path / "out", pipeline_name=pair.task)
    checked = check(pair, tmp_path / "source", tmp_path / "out")
    assert checked.right and not checked.fixed, checked
    names = [spec.name for spec in conversion.manifest.components[0].inputs]
    assert ("past_indexer.0" in names) == ("glm" in name)
