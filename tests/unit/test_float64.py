"""A PyTorch model that is run in float64 without being changed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onnxport.sources.pytorch import float64
from onnxport.sources.pytorch.source import TorchSource
from onnxport.weights.lazy import in_memory

INPUT = {"x": np.random.default_rng(0).standard_normal((3, 7, 6)).astype(np.float32)}


class Layers(nn.Module):
    """Layers whose code, in Python or in C++, looks at types.

    Args:
        cast: results go through float32 where models cast.
    """

    def __init__(self, cast: bool) -> None:
        super().__init__()
        self.type = torch.float32 if cast else torch.float64
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 8, batch_first=True)
        self.convolution, self.transposed = nn.Conv1d(8, 8, 3, padding=1), nn.ConvTranspose1d(8, 4, 2, stride=2)
        self.norms = nn.ModuleList([nn.BatchNorm1d(8), nn.GroupNorm(2, 8)])
        self.encoder, self.attention = (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            nn.MultiheadAttention(8, 2),
        )
        self.embedding, self.gain, self.joint = nn.Embedding(10, 8), nn.PReLU(), nn.Bilinear(8, 8, 4)
        self.register_buffer("frequencies", torch.linspace(1, 2, 8))
        self.register_buffer("state", torch.zeros(3, 8))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.gru(self.lstm(x)[0])[0].transpose(1, 2)
        for layer in (self.convolution, *self.norms):
            y = layer(y)
        y = y.transpose(1, 2).to(self.type)
        y = y + torch.cos(torch.arange(y.shape[1]).to(self.type)[:, None] * self.frequencies)
        chosen = (y.sigmoid() * 9).long().sum(-1) % 10
        y = self.encoder(y) + self.embedding(chosen)
        y = self.attention(y, y, y)[0]
        mask = torch.full((y.shape[1], y.shape[1]), torch.finfo(y.dtype).min, dtype=y.dtype).triu(1)
        y = torch.softmax(torch.einsum("bid,bjd->bij", y, y) + mask, -1, dtype=self.type) @ self.gain(y)
        best, places = y.topk(3, -1)
        self.state[: y.shape[0]] = y.mean(1)
        y.mul_(2).add_(1)
        spectrum = torch.fft.rfft(y, dim=1).abs()
        return {"y": y, "best": best, "places": places, "spectrum": spectrum, "joint": self.joint(y, y),
                "transposed": self.transposed(y.transpose(1, 2)), "state": self.state.clone()}  # fmt: skip


def layers(cast: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Layers(cast).eval()


def test_it_is_the_model_in_float64() -> None:
    model = layers(cast=True)
    before = copy.deepcopy(model.state_dict())
    run = TorchSource(model).measured(INPUT)
    state = model.state.clone()  # type: ignore[union-attr,operator]
    found = run.in_float64()
    # The same weights in a model that knows no other type.
    wide = layers(cast=False).double()
    with torch.no_grad():
        wanted = wide(torch.from_numpy(INPUT["x"]).double())
    for name, value in wanted.items():
        assert found[name].dtype == value.numpy().dtype
        # A buffer that the model writes into stays float32.
        np.testing.assert_allclose(found[name], value, atol=1e-12 if name != "state" else 1e-6)
    assert any(np.abs(run.outputs[name] - found[name]).max() > 1e-8 for name in found), "float32 is rounded"
    assert {name: value.dtype for name, value in model.state_dict().items()} == {n: v.dtype for n, v in before.items()}
    torch.testing.assert_close(model.state, state, atol=1e-6, rtol=0)
    assert torch.get_default_dtype() is torch.float32
    again = TorchSource(model).run(INPUT)
    for name, value in run.outputs.items():
        np.testing.assert_array_equal(again[name], value, name)


def test_large_weights_are_multiplied_by_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(6, 50)
    wanted = TorchSource(model).measured({"input": INPUT["x"]}).in_float64()["output"]
    monkeypatch.setattr(float64, "_PIECE", 40)
    monkeypatch.setattr(float64, "require_memory", lambda *_: None)
    sizes: list[int] = []
    widened = float64.widened

    def watched(value: Any) -> Any:
        sizes.append(value.numel() if isinstance(value, torch.Tensor) else 0)
        return widened(value)

    monkeypatch.setattr(float64, "widened", watched)
    found = TorchSource(model).measured({"input": INPUT["x"]}).in_float64()["output"]
    np.testing.assert_allclose(found, wanted, atol=1e-14)
    assert sizes.count(36) == 8, "of 50 columns of 6 weights, 6 at a time"


def test_weights_in_files_are_read_when_they_are_needed() -> None:
    model = layers(cast=True)
    wanted = TorchSource(model).measured(INPUT).in_float64()
    for module in model.modules():
        if not isinstance(module, (nn.LSTM, nn.GRU)):  # which keep their weights in a second list
            for name, parameter in list(module.named_parameters(recurse=False)):
                module._parameters[name] = nn.Parameter(in_memory(parameter.data), requires_grad=False)
    found = TorchSource(model).measured(INPUT).in_float64()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-12 if name != "state" else 1e-6)


class Routed(nn.Module):
    """Two experts that are equally good but for rounding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In float32 both sums are 1: the first wins. In float64 the second is larger.
        scores = torch.stack([x.new_ones(len(x)), x.new_ones(len(x)) + 2.0**-30])
        return torch.where(scores.argmax(0) == 0, x * 100, x / 3)


def test_decisions_are_those_of_float32() -> None:
    x = np.linspace(0.1, 1, 5, dtype=np.float32)
    run = TorchSource(Routed()).measured({"x": x})
    np.testing.assert_array_equal(run.outputs["output"], x * 100)
    np.testing.assert_allclose(run.in_float64()["output"], x.astype(np.float64) * 100, rtol=1e-15)
    np.testing.assert_allclose(run.perturbed(1)["output"], x * 100, rtol=1e-6)


class Drawn(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x) + torch.rand(len(x))


def test_random_numbers_are_those_of_float32() -> None:
    run = TorchSource(Drawn()).measured({"x": INPUT["x"][0, :6]})
    assert np.abs(run.in_float64()["output"] - run.outputs["output"]).max() < 1e-6


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(3, 8, 8, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ends = torch.tensor([2, 2, 8], dtype=torch.int32)  # the second expert gets nothing
        return nn.functional.grouped_mm(x, self.weights, offs=ends)


def test_a_mixture_of_experts() -> None:
    model, x = Experts(), np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    run = TorchSource(model).measured({"x": x})
    weights = model.weights.detach().numpy().astype(np.float64)
    wanted = np.concatenate([x[:2] @ weights[0], x[2:] @ weights[2]])
    np.testing.assert_allclose(run.in_float64()["output"], wanted, atol=1e-14)
    np.testing.assert_allclose(run.outputs["output"], wanted, atol=1e-5)


class Cached(nn.Module):
    """Keeps what it computed for the next call."""

    table: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None or len(self.table) < len(x):
            self.table = torch.sin(torch.arange(len(x)).float())
        return x + self.table[: len(x)]


def test_nothing_of_float64_stays_behind() -> None:
    model = Cached()
    run = TorchSource(model).measured({"x": np.ones(4, np.float32)})
    assert model.table is None  # what a run keeps does not reach the next one
    run.in_float64()
    assert model.table is None
    model.table = table = torch.sin(torch.arange(4).float())
    run.in_float64()
    assert model.table is table and type(table) is torch.Tensor


class Asks(nn.Module):
    """Computes a part in float64 by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.double().cumsum(0)
        assert wide.dtype is torch.float64 and (wide * x).dtype is torch.float64
        return torch.cat([wide.float(), x])


def test_a_model_that_asks_for_float64_gets_it() -> None:
    x = INPUT["x"][0, 0]
    found = TorchSource(Asks()).measured({"x": x}).in_float64()["output"]
    np.testing.assert_allclose(found, np.concatenate([x.astype(np.float64).cumsum(), x]), rtol=1e-15)


class Bits(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.view(torch.int32) & 1)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(TypeError, match="bits"):
        TorchSource(Bits()).measured({"x": INPUT["x"]}).in_float64()
