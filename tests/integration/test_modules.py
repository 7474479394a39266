"""A plain torch.nn.Module with sample inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from onnxport import OnnxPortError, convert
from onnxport.errors import ExportError, VerificationError
from onnxport.export import fixes
from onnxport.progress import Silent

pytestmark = pytest.mark.integration


class Notes(Silent):
    """Keeps what a user is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def convert_and_note(model, output, sample):
    notes = Notes()
    return convert("pt", model, output, sample_inputs=sample, reporter=notes), notes.notes


class Mixer(torch.nn.Module):
    """Two inputs that share the batch and the length axis."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.left, self.right = torch.nn.Linear(6, 5), torch.nn.Linear(4, 5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x, y):
        joint = torch.tanh(self.left(x) + self.right(y))
        return {"joint": joint, "mean": joint.mean(1)}


def test_module_with_two_inputs(tmp_path):
    model = Mixer()
    sample = (torch.randn(2, 7, 6), torch.randn(2, 7, 4))
    conversion = convert("pt", model, tmp_path / "m" / "mixer.onnx", sample_inputs=sample)
    assert conversion.passed
    session = onnxruntime.InferenceSession(tmp_path / "m" / "mixer.onnx")
    x, y = torch.randn(5, 13, 6), torch.randn(5, 13, 4)  # not the sample's sizes
    found = session.run(["joint", "mean"], {"x": x.numpy(), "y": y.numpy()})
    wanted = model(x, y)
    np.testing.assert_allclose(found[0], wanted["joint"].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1], wanted["mean"].detach().numpy(), atol=1e-5)


class Recurrent(torch.nn.Module):
    """Two layers in both directions, and one that also gives its last state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = torch.nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = torch.nn.GRU(10, 4, batch_first=True)

    def forward(self, x):
        steps, last = self.gru(self.lstm(x)[0])
        return {"steps": steps, "last": last[0]}


def test_recurrent_layers_take_any_number_of_steps(tmp_path, monkeypatch):
    model, sample = Recurrent().eval(), torch.randn(2, 7, 6)
    conversion = convert("pt", model, tmp_path / "with" / "m.onnx", sample_inputs=sample)
    (component,) = conversion.manifest.components
    assert (component.operators["LSTM"], component.operators["GRU"]) == (2, 1)
    session = onnxruntime.InferenceSession(tmp_path / "with" / "m.onnx")
    for steps in (1, 19):
        x = torch.randn(3, steps, 6)
        for found, wanted in zip(session.run(["steps", "last"], {"x": x.numpy()}), model(x).values(), strict=True):
            np.testing.assert_allclose(found, wanted.detach().numpy(), atol=1e-6)
    monkeypatch.delitem(fixes.TRACE_FIXES, "recurrent-layers")
    without, noted = convert_and_note(model, tmp_path / "without" / "m.onnx", sample)
    assert without.manifest.components[0].inputs[0].axes == ("batch_size", 7, 6)
    assert any("x_dim_1" in note and "fixed at 7" in note for note in noted)


class Baked(torch.nn.Module):
    """Its result depends on a Python value of a tensor, which a trace bakes in."""

    def forward(self, x):
        return x * float(np.asarray(x.detach()).sum() > 0)


def test_a_graph_that_disagrees_is_not_published(tmp_path):
    with pytest.raises(OnnxPortError):
        convert("pt", Baked(), tmp_path / "out", sample_inputs=torch.randn(2, 3))
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []


class Pretender(torch.nn.Module):
    """Computes something else while it is exported: no graph agrees with it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.weight + (2 if torch.compiler.is_exporting() else 1)


def test_mismatch_is_an_error_and_can_be_allowed_on_record(tmp_path):
    with pytest.raises(VerificationError, match="is off by") as caught:
        convert("pt", Pretender(), tmp_path / "a" / "m.onnx", sample_inputs=torch.randn(2, 3))
    assert caught.value.exit_code == 1
    assert not (tmp_path / "a").exists()
    conversion = convert("pt", Pretender(), tmp_path / "b", sample_inputs=torch.randn(2, 3), allow_mismatch=True)
    assert not conversion.passed
    assert (tmp_path / "b" / "onnx" / "model.onnx").is_file()


def test_wrong_sample_inputs(tmp_path):
    with pytest.raises(OnnxPortError, match="has no input z"):
        convert("pt", Mixer(), tmp_path / "out", sample_inputs={"z": torch.randn(2, 3)})
    with pytest.raises(OnnxPortError, match=r"live torch\.nn\.Module"):
        convert("pt", "folder", tmp_path / "out", sample_inputs=torch.randn(2, 3))


class Quiet(torch.nn.Module):
    """What keeps the logarithm finite is smaller than onnxscript's idea of zero."""

    def forward(self, x):
        return torch.log(x * x + 1e-10)


class Steps(torch.nn.Module):
    """Runs one step after the other in Python, so that the number of steps is static in a graph."""

    def forward(self, x):
        state = x[:, 0]
        for step in range(1, x.shape[1]):
            state = torch.tanh(state + x[:, step])
        return state


def test_an_axis_that_must_stay_dynamic(tmp_path):
    with pytest.raises(ExportError) as caught:
        convert(None, Steps(), tmp_path / "out", sample_inputs=torch.randn(2, 7, 6), require_dynamic=True)
    assert "x_dim_1" in caught.value.message and "7" in caught.value.message
    assert "--require-dynamic" in caught.value.hint
    assert not (tmp_path / "out").exists()


class Chosen(torch.nn.Module):
    """Which of two sums it gives depends on a value."""

    def forward(self, x):
        if x.sum() > 0:  # decides
            return x.sum(-1)
        return -x.sum(-1)


def test_sizes_that_depend_on_values_name_the_line(tmp_path):
    sample = torch.ones(4, 6)
    with pytest.raises(ExportError) as caught:
        convert(None, Chosen(), tmp_path / "out", sample_inputs=sample)
    assert "depend on values" in caught.value.message
    assert Path(__file__).name in caught.value.message and "decides" in caught.value.message
    assert "Eq(" not in caught.value.message and not (tmp_path / "out").exists()


def test_silence_stays_finite(tmp_path):
    convert("pt", Quiet(), tmp_path / "q.onnx", sample_inputs=torch.randn(2, 3))
    found = onnxruntime.InferenceSession(tmp_path / "q.onnx").run(None, {"x": np.zeros((4, 5), np.float32)})[0]
    np.testing.assert_allclose(found, np.log(1e-10), rtol=1e-6)
