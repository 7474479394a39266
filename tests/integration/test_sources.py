"""A torch model as a source: fake tensors tell the shapes that a real run has, and leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import onnxport.sources.pytorch.source as sources
from onnxport.dummy_inputs.base import base_sizes
from onnxport.export.signature import infer_signature
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.resolve import resolve_model
from onnxport.system.output_capture import capture_process
from tests.sample import sampled
from tests.tiny import TINY, save

pytestmark = pytest.mark.integration
NAMES = (
    "bert-question-answering",
    "detr-object-detection",
    "swin-image-classification",
    "clip-zero-shot-image-classification",
    "wav2vec2-automatic-speech-recognition",
    "modernbert-fill-mask",
)


@pytest.mark.parametrize("name", sampled(NAMES, "bert-question-answering", "swin-image-classification"))
def test_probing_on_fake_tensors_finds_what_real_runs_find(name, tmp_path, monkeypatch):
    with capture_process():
        to_export = load_model_to_export(resolve_model(save(name, tmp_path / "m")), TINY[name].task)
    source, generator = to_export.source, to_export.generator
    inputs = generator.make(base_sizes(generator))
    before = source.run(inputs)
    real = infer_signature(source, generator)

    monkeypatch.setattr(sources, "HEAVY_WORK", 0)  # now everything is heavy
    fake = infer_signature(source, generator)
    assert (fake.inputs, fake.outputs, fake.accepted) == (real.inputs, real.outputs, real.accepted)
    assert [(r.axis, r.rule) for r in fake.restrictions] == [(r.axis, r.rule) for r in real.restrictions]
    monkeypatch.setattr(source, "run", None)  # a fall back to a real run would fail
    assert source.shapes(inputs) == {name: value.shape for name, value in before.items()}
    monkeypatch.undo()

    after = source.run(inputs)
    for output, value in before.items():
        np.testing.assert_array_equal(after[output], value)  # no fake tensor stayed in the model


def test_a_model_that_looks_at_values_is_run_for_real(monkeypatch):
    class Peeks(torch.nn.Module):
        def forward(self, x):
            return x[:, : int(x.abs().sum() > 0) + 1]

    monkeypatch.setattr(sources, "HEAVY_WORK", 0)
    source = sources.TorchSource(Peeks())
    assert source.shapes({"x": np.ones((2, 5), np.float32)}) == {"output": (2, 2)}


class _Caches(torch.nn.Module):
    """Computes tensors at its first call, and keeps them in an attribute and in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.register_buffer("scale", None, persistent=False)

    def forward(self, x):
        if not hasattr(self, "shift"):
            self.shift = torch.arange(3.0) * 2
            self.scale = self.linear.weight.sum(0)
        return self.linear(x) * self.scale + self.shift


def test_nothing_that_a_model_caches_stays_fake(monkeypatch):
    model = _Caches().eval()
    source = sources.TorchSource(model)
    x = np.ones((2, 3), np.float32)
    monkeypatch.setattr(sources, "HEAVY_WORK", 0)
    assert source.shapes({"x": x}) == {"output": (2, 3)}
    assert not source._needs_values  # it did run on fake tensors
    assert not hasattr(model, "shift") and model.scale is None
    expected = model.linear(torch.from_numpy(x)) * model.linear.weight.sum(0) + torch.arange(3.0) * 2
    np.testing.assert_allclose(source.run({"x": x})["output"], expected.detach().numpy(), rtol=1e-6)
    assert not hasattr(model, "shift") and model.scale is None  # nor does a real run leave anything behind
    model(torch.from_numpy(x))
    kept = model.shift
    source.shapes({"x": x})
    assert model.shift is kept
