"""How far a graph may be from its source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from onnxport.specs import OutputCheck, TensorSpec
from onnxport.verification.case import Case
from onnxport.verification.compare import check_case, max_error
from onnxport.verification.rounding import Rounding, measure_rounding, with_shared_noise
from onnxport.verification.tolerance import fixed_tolerance, measured_tolerance

UNIT = 2.0**-24


def test_the_formula() -> None:
    assert measured_tolerance(0, 1) == pytest.approx(16 * UNIT + 1e-7)
    assert measured_tolerance(1e-6, 1) == pytest.approx(4e-6 + 16 * UNIT + 1e-7)
    # A model that amplifies rounding may exceed the fixed tolerance, but not be further off than float16.
    assert measured_tolerance(1e-4, 1) > fixed_tolerance("float32", 1)
    assert measured_tolerance(1, 1) == fixed_tolerance("float16", 1)


def test_errors_around_numbers_that_are_none() -> None:
    inf, nan = np.inf, np.nan
    assert max_error(np.array([1.0, inf, -inf, nan]), np.array([1.5, inf, -inf, nan])) == 0.5
    assert max_error(np.array([inf]), np.array([-inf])) == inf
    assert max_error(np.array([1.0]), np.array([nan])) == inf
    assert max_error(np.array([1.0, inf]), np.array([1.5, inf]), np.array([0.25, 0.0])) == 0.25
    assert max_error(np.array([1.0]), np.array([inf]), np.array([0.25])) == inf


@dataclass
class Run:
    """A run whose results are given: one of None fails."""

    outputs: dict[str, np.ndarray]
    exact: np.ndarray | None
    spread: float | None

    def in_float64(self) -> dict[str, np.ndarray]:
        if self.exact is None:
            raise NotImplementedError
        return {"y": self.exact}

    def decided_otherwise(self, seed: int) -> None:
        raise NotImplementedError

    def perturbed(self, seed: int) -> dict[str, np.ndarray]:
        if self.spread is None:
            raise NotImplementedError
        return {"y": self.outputs["y"] + np.float32(self.spread if seed == 2 else 0)}


def outputs() -> dict[str, np.ndarray]:
    return {"y": np.array([1.0, 2.0, np.inf, -3.4e38], np.float32), "n": np.array([1, 2])}


def exact(by: float) -> np.ndarray:
    return np.array([1.0, 2.0 + by, np.inf, -1.7e308])


def test_float64_is_taken_where_it_is_near() -> None:
    found = measure_rounding(Run(outputs(), exact(1e-6), None))
    assert found is not None and found.method == "float64" and list(found.moved) == ["y"]
    np.testing.assert_allclose(found.moved["y"], [0, 1e-6, 0, 0], rtol=1e-4)


def test_float64_that_is_far_away_must_be_explained_by_rounding() -> None:
    amplified = measure_rounding(Run(outputs(), exact(1e-2), 5e-3))
    assert amplified is not None and amplified.method == "float64"
    another = measure_rounding(Run(outputs(), exact(1e-2), 1e-6))
    assert another is not None and another.method == "perturbation"
    assert another.moved["y"] == pytest.approx(1e-6, rel=0.2)


def test_without_float64_and_without_anything() -> None:
    found = measure_rounding(Run(outputs(), None, 1e-3))
    assert found is not None and found.method == "perturbation" and found.moved["y"] == pytest.approx(1e-3, rel=1e-3)
    assert measure_rounding(Run(outputs(), None, None)) is None
    assert measure_rounding(Run(outputs(), np.zeros(3), None)) is None


def test_a_run_that_is_right_by_chance_gets_the_noise_of_the_others() -> None:
    big, small = np.full(100, 2.0, np.float32), np.ones(2, np.float32)
    lucky = Rounding("float64", {"y": np.zeros(2, np.float32)})
    usual = Rounding("float64", {"y": np.tile(np.array([-4e-6, 4e-6], np.float32), 50)})
    found = with_shared_noise([({"y": big}, usual), ({"y": small}, lucky), ({"y": small}, None)])
    assert found[2] is None and found[0] is not None and found[1] is not None
    assert found[1].noise["y"] == pytest.approx(3 * 2e-6, rel=0.05)  # of the scale 1
    assert found[0].noise["y"] == pytest.approx(3 * 4e-6, rel=0.05)


def judged(found: np.ndarray, rounding: Rounding | None) -> OutputCheck:
    wanted = np.array([1.0, 2.0], np.float32)
    case = Case("case", {}, {}, {"y": wanted}, rounding)
    spec = TensorSpec("y", "float32", (2,))
    return check_case(lambda _: {"y": found}, case, None, [spec], *(1e-5, 1e-4)).outputs[0]


def test_a_graph_is_held_against_float64() -> None:
    moved = np.array([0, 1e-5], np.float32)
    rounding = Rounding("float64", {"y": moved}, noise={"y": 1e-5})
    check = judged(np.array([1.0, 2.00001], np.float32), rounding)  # float64 itself
    assert check.ok and check.method == "float64" and check.source_error == pytest.approx(1e-5)
    assert check.graph_error is not None and check.graph_error < 1.3e-7 and check.judged_error == check.graph_error
    assert check.max_abs_error == pytest.approx(1e-5, rel=0.02)
    assert check.tolerance == pytest.approx(measured_tolerance(1e-5, 2))
    assert judged(np.array([1.0, 2.0], np.float32), rounding).ok  # the source itself
    assert not judged(np.array([1.0, 2.0 + 1e-4], np.float32), rounding).ok
    # The fixed tolerance would let it pass.
    assert judged(np.array([1.0, 2.0 + 1e-4], np.float32), None).ok


def test_a_graph_is_held_against_the_source_where_it_was_perturbed() -> None:
    rounding = Rounding("perturbation", {"y": np.array(1e-4, np.float32)}, noise={"y": 1e-4})
    check = judged(np.array([1.0, 2.0 + 3e-4], np.float32), rounding)
    assert check.ok and check.method == "perturbation" and check.graph_error is None
    assert check.judged_error == check.max_abs_error == pytest.approx(3e-4, rel=0.01)
    assert not judged(np.array([1.0, 2.0 + 5e-4], np.float32), rounding).ok
