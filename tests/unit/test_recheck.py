"""A graph may take the other expert where the source's own scores are as near as rounding, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxport.sources.pytorch.source import TorchSource  # noqa: E402
from onnxport.specs import TensorSpec  # noqa: E402
from onnxport.verification.case import Case  # noqa: E402
from onnxport.verification.evidence import Evidence, verify_graph  # noqa: E402
from onnxport.verification.recheck import recheck  # noqa: E402
from onnxport.verification.rounding import measure_rounding, with_shared_noise  # noqa: E402

WIDTH = 64
SPEC = TensorSpec("y", "float32", ("batch_size", WIDTH))


class Experts(torch.nn.Module):
    """Each row is multiplied by the matrix of the expert with the best score.

    Args:
        ahead: added to the score of the second expert.
        limit: of the numbers; they are cut there.
    """

    def __init__(self, ahead: float = 0.0, limit: float = 1e9) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate = torch.nn.Parameter(torch.randn(2, WIDTH))
        self.experts = torch.nn.Parameter(torch.randn(2, WIDTH, WIDTH))
        self.ahead, self.limit = ahead, limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clamp(max=self.limit)
        scores = x @ self.gate.T + torch.tensor([0.0, self.ahead])
        return {"y": torch.einsum("bi,bio->bo", x, self.experts[scores.topk(1).indices[:, 0]])}


def _rows(gap: float) -> np.ndarray:
    """Three rows; in the second, the first expert's score leads by `gap` of the scores, 0: by as little as can be."""
    model = Experts()
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    away = (model.gate[0] - model.gate[1]).detach().double()
    lead = gap * float((x[1] @ model.gate.detach().double().T).abs().max())
    x[1] += away * (lead - x[1] @ away) / (away @ away)
    x = x.float()
    if not gap:
        near = x[1] + 1e-6 * torch.randn(4096, WIDTH, generator=torch.Generator().manual_seed(2))
        leads = (near @ model.gate.detach().T) @ torch.tensor([1.0, -1.0])
        x[1] = near[torch.where(leads > 0, leads, torch.inf).argmin()]
    return x.numpy()


def _exported(file: Path, model: Experts) -> Path:
    torch.onnx.export(
        model, (torch.zeros(2, WIDTH),), file, input_names=["x"], output_names=["y"], dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch_size")},), verbose=False, external_data=False,
    )  # fmt: skip
    return file


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The graph of a model whose second expert is a little ahead, as another order of sums may put it."""
    return _exported(tmp_path / "model.onnx", Experts(ahead=2e-6))


def _verified(graph: Path, gap: float, others: int = 3, largest: float = 0.0):
    source = TorchSource(Experts())
    inputs = [_rows(0.5 + number) for number in range(others)] + [_rows(gap)]
    inputs[-1][0, 0] += largest
    runs = [source.measured({"x": x}) for x in inputs]
    roundings = with_shared_noise([(run.outputs, measure_rounding(run)) for run in runs])
    cases = [
        Case(f"case {number}", {"batch_size": 3}, {"x": x}, run.outputs, rounding)
        for number, (x, run, rounding) in enumerate(zip(inputs, runs, roundings, strict=True))
    ]
    evidence = Evidence(cases, [], None, "torch")
    found = verify_graph(graph, evidence, [SPEC])
    return found, recheck(graph, source, evidence, {"y": 0}, found)


def test_the_other_expert_is_right_where_scores_are_equal_but_for_rounding(graph: Path) -> None:
    found, settled = _verified(graph, gap=0)
    assert [check.ok for check in found.cases] == [True, True, True, False]
    assert settled.passed and [check.inner_ties for check in settled.cases] == [0, 0, 0, 1]
    output = settled.cases[-1].outputs[0]
    assert output.graph_error is not None and output.graph_error <= output.tolerance < found.cases[-1].outputs[0].scale


def test_the_other_expert_is_wrong_where_scores_differ(tmp_path: Path) -> None:
    found, settled = _verified(_exported(tmp_path / "model.onnx", Experts(ahead=0.5)), gap=1e-3)
    assert not found.passed and settled == found


def test_another_fault_beside_a_tie_is_found(tmp_path: Path) -> None:
    file = _exported(tmp_path / "model.onnx", Experts(ahead=2e-6, limit=5))
    assert not _verified(file, gap=0, largest=6)[1].passed
    assert _verified(file, gap=0)[1].passed


def test_a_graph_that_disagrees_in_most_cases_gets_no_second_look(graph: Path) -> None:
    found, settled = _verified(graph, gap=0, others=0)
    assert not found.passed and settled == found
