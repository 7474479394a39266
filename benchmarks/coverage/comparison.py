"""Compare what a graph gives with what torch gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray]

# Largest difference as a share of the largest value of an output. Sound float32 graphs stay below 1e-5.
_TOLERANCE = 1e-3
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


@dataclass
class Checked:
    """The result for one folder.

    Attributes:
        cases: comparisons that were made.
        error: largest difference as a share of the largest value; None if nothing was compared.
        problem: why something could not be compared or differs; empty if all is right.
        fixed: axes that vary in the inputs and are numbers in the graph, like "pixel_values.height=64".
    """

    cases: int = 0
    error: float | None = None
    problem: str = ""
    fixed: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        return not self.problem and self.error is not None and self.error <= _TOLERANCE


def named(outputs: Any) -> Arrays:
    """Tensors of torch's result by the names that a graph gives them."""
    found: Arrays = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[prefix] = value.float().numpy() if value.is_floating_point() else value.numpy()
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)
        elif isinstance(value, (list, tuple)):
            for index, inner in enumerate(value):
                walk(f"{prefix}.{index}", inner)

    walk("", outputs)
    return found


def compare(session: Any, feed: Arrays, expected: Arrays, result: Checked, mask: np.ndarray | None = None) -> Arrays:
    """Run the graph and compare each output that torch has under the same name."""
    names = [one.name for one in session.get_outputs()]
    got = dict(zip(names, session.run(None, feed), strict=True))
    common = [name for name in names if name in expected]
    if not common:
        result.problem = f"no output of {names} is among torch's {sorted(expected)}"
        return got
    result.cases += 1
    for name in common:
        judge(name, got[name], expected[name], result)
    return got


def judge(name: str, got: np.ndarray, wanted: np.ndarray, result: Checked) -> None:
    if got.shape != wanted.shape:
        result.problem = f"{name} has shape {got.shape}, torch's {wanted.shape}"
        return
    if not got.size:
        return
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(got)):
        result.problem = f"{name}: other values are infinite or NaN than torch's"
        return
    wide, there = wanted[finite].astype(np.float64), got[finite].astype(np.float64)
    scale = max(float(np.abs(wide).max(initial=0)), 1e-6)
    error = float(np.abs(wide - there).max(initial=0)) / scale
    result.error = max(result.error or 0.0, error)
    if error > _TOLERANCE:
        result.problem = f"{name} differs by {error:.1e} of its largest value"


def empty_state(spec: Any, rows: int) -> np.ndarray:
    """An empty past: no tokens in a cache, zeros in a state of a fixed size."""
    shape = [rows if index == 0 and not isinstance(size, int) else size if isinstance(size, int) else 0
             for index, size in enumerate(spec.shape)]  # fmt: skip
    return np.zeros(shape, TYPES.get(spec.type, np.float32))
