"""How far rounding alone moves the outputs of a source: its own distance from the same model in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxport.sources.base import Arrays, MeasuredRun
from onnxport.verification.tolerance import LARGEST, UNIT, fixed_tolerance, pieces, scale_of

FLOAT64, PERTURBATION, FIXED = "float64", "perturbation", "fixed"
_SEEDS = (1, 2)
# Perturbed numbers move outputs about as far as rounding does: 1 to 14 times as far in 12 models. Outputs in float64
# that are further away than this many times are those of another computation.
_CREDIBLE = 10.0
# Units of the last place, of the scale: a model that rounding moves further amplifies it, and then its distance from
# float64 is one draw of a wide distribution. Another order of sums may draw several times as much.
_AMPLIFIED = 32.0
# Standard deviations: an output of few numbers may be rounded little by chance.
_DEVIATIONS = 3.0


@dataclass(frozen=True)
class Rounding:
    """What rounding does to the outputs of one run.

    Attributes:
        method: "float64" or "perturbation".
        moved: of outputs in float32, by name. "float64": the output in float64 less the output, of its shape;
            "perturbation": the largest change of the output when numbers in the model are moved by one unit in the
            last place, a single number.
        spread: the largest change by perturbed numbers, of outputs in whose computation the model amplifies rounding.
        noise: by how much rounding may move an output, in its units; from this run and the others of the model.
    """

    method: str
    moved: Arrays
    spread: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)

    def mapped(self, change: Callable[[Arrays], Arrays]) -> Rounding:
        """The same for parts of the outputs, which `change` takes."""
        return replace(self, moved=change(self.moved)) if self.method == FLOAT64 else self


def measure_rounding(run: MeasuredRun) -> Rounding | None:
    """Repeat a run in float64; where that is not possible or not credible, with perturbed numbers.

    Outputs in float64 are credible where they are as near to those in float32 as the fixed tolerance allows, or where
    perturbed numbers move the outputs about as far: then the model amplifies rounding. Else the model's code does
    something else in float64.

    Returns:
        Without `noise`. None where neither is possible: the tolerance is the fixed one then.
    """
    exact = _attempt(run.in_float64)
    moved = distances(run.outputs, exact) if exact is not None else None
    if moved is not None and all(_is_small(run.outputs[name], far) for name, far in moved.items()):
        return Rounding(FLOAT64, moved, _amplified(run, moved))
    spread = measure_spread(run)
    if spread is None:
        return None
    if moved is not None and all(_largest(far) <= _CREDIBLE * spread[name] for name, far in moved.items()):
        return Rounding(FLOAT64, moved, {name: float(far) for name, far in spread.items()})
    return Rounding(PERTURBATION, spread)


def with_shared_noise(runs: Sequence[tuple[Arrays, Rounding | None]]) -> list[Rounding | None]:
    """What several runs of a model tell about each other, as `Rounding.noise`.

    It is the largest of |moved| and `spread` of the run and three times the root of the mean square over all runs, each
    relative to its scale: three logits can all be right by chance.

    Args:
        runs: outputs, and what rounding does to them.
    """
    squares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for outputs, rounding in runs:
        for name, moved in rounding.moved.items() if rounding is not None else ():
            scale = scale_of(outputs[name])
            if scale > 0:
                squares[name] = squares.get(name, 0.0) + _sum_of_squares(moved) / scale**2
                counts[name] = counts.get(name, 0) + moved.size
    shared = {name: _DEVIATIONS * (squares[name] / max(counts[name], 1)) ** 0.5 for name in squares}
    return [
        rounding
        and replace(
            rounding,
            noise={
                name: max(
                    _largest(moved), shared.get(name, 0.0) * scale_of(outputs[name]), rounding.spread.get(name, 0.0)
                )
                for name, moved in rounding.moved.items()
            },
        )
        for outputs, rounding in runs
    ]


def _amplified(run: MeasuredRun, moved: Arrays) -> dict[str, float]:
    """By how much perturbed numbers move the outputs that rounding moves far."""
    far = [name for name, by in moved.items() if _largest(by) > _AMPLIFIED * UNIT * scale_of(run.outputs[name])]
    spread = measure_spread(run) if far else None
    return {name: float(spread[name]) for name in far} if spread is not None else {}


def _attempt(call: Callable[[], Arrays]) -> Arrays | None:
    try:
        return call()
    except Exception:  # an operator without float64, code that insists on a type, no memory: another way is taken
        return None


def distances(outputs: Arrays, others: Arrays) -> Arrays | None:
    """Others less outputs, in float32; None where they have other shapes. 0 where one of both is no number.

    Args:
        others: of any floating type.
    """
    found: Arrays = {}
    for name, value in outputs.items():
        if value.dtype != np.float32:
            continue
        other = others.get(name)
        if other is None or other.shape != value.shape:
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            comparable = np.isfinite(value) & np.isfinite(other) & (np.abs(value) < LARGEST)
            found[name] = np.where(comparable, other - value, 0).astype(np.float32)
    return found


def measure_spread(run: MeasuredRun, seeds: Iterable[int] = _SEEDS) -> Arrays | None:
    """By how much outputs move when the numbers in the model do; single numbers. None where that is not possible."""
    found: Arrays = {}
    for seed in seeds:
        others = _attempt(lambda seed=seed: run.perturbed(seed))  # type: ignore[misc]
        moved = distances(run.outputs, others) if others is not None else None
        if moved is None:
            return None
        for name, far in moved.items():
            found[name] = np.array(max(_largest(far), float(found.get(name, 0))), np.float32)
    return found


def _is_small(output: np.ndarray, moved: np.ndarray) -> bool:
    return _largest(moved) <= fixed_tolerance("float32", scale_of(output))


def _largest(moved: np.ndarray) -> float:
    return float(np.abs(moved).max(initial=0.0))


def _sum_of_squares(moved: np.ndarray) -> float:
    return sum(float(np.square(piece.astype(np.float64)).sum()) for piece in pieces(moved))
