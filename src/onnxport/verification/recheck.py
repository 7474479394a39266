"""Look at failed cases once more: how far rounding moves the source there, and which decisions it turns.

The rounding of a case is measured while the source runs (`verification.rounding`): its distance from float64 always,
what moves when all numbers in the model are moved by one unit in the last place only where that distance is large,
because it takes two more runs. A model that amplifies rounding can come near float64 by chance. So that is made up for
here.

And source and graph may decide otherwise inside the model. A mixture of experts sends a token to the experts with the
best scores; where two scores are as near as rounding, the source itself takes the one on this machine and the other on
the next, and all that follows is different. So where moved numbers turn decisions, the source computes in float64 with
these, and a row is right if it is as near to one of these results as it had to be to the first one.

Neither is done for a graph that disagrees in most cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.dummy_inputs.base import Arrays
from onnxport.sources.base import MeasuredRun, Source
from onnxport.specs import CaseCheck, OutputCheck, Verification
from onnxport.tensor_names import NUM_LOGITS, NUM_LOGITS_TO_KEEP
from onnxport.verification.case import Case
from onnxport.verification.compare import last_logits, max_error
from onnxport.verification.evidence import Evidence, sizes_compared
from onnxport.verification.rounding import FLOAT64, distances, measure_spread
from onnxport.verification.sessions import session_for
from onnxport.verification.tolerance import measured_tolerance

if TYPE_CHECKING:
    from onnxport.runtime.session import OnnxSession

_SEEDS = range(1, 25)  # of runs that may decide otherwise
_MOVED = range(1, 9)  # of runs that say how far rounding moves the source
_MOST = 0.5  # of the cases of a graph that may need this


@dataclass
class _Row:
    """One row of a batch in all outputs.

    Attributes:
        errors: output -> distance from the nearest result of the source; all are of the same result.
        turned: that result is one with other decisions.
    """

    errors: dict[str, float]
    turned: bool = False

    def excess(self, allowed: Mapping[str, float]) -> float:
        """How many times the tolerance the worst output is off; whole numbers have none."""
        shares = (
            error / allowed[name] if allowed[name] else float("inf") if error else 0.0
            for name, error in self.errors.items()
        )  # fmt: skip
        return max(shares, default=0.0)


def recheck(
    file: Path, source: Source, evidence: Evidence, batch_axes: Mapping[str, int], verification: Verification
) -> Verification:
    """Compare failed cases once more.

    Args:
        file: the graph.
        source: the model, as it was before the export.
        evidence: what was compared.
        batch_axes: output -> its axis of rows; an output that is not there is compared as a whole.
        verification: what came of it.

    Returns:
        The same, in which cases that agree now have passed; `CaseCheck.inner_ties` says how many rows needed it.
    """
    cases = evidence.single_calls
    if any(NUM_LOGITS in check.sizes for check in verification.cases):
        cases += last_logits(evidence.cases)
    known = {case.name: case for case in cases}
    failed = [check for check in verification.cases if not check.ok]
    if len(failed) > _MOST * len(verification.cases) or not all(_can_be_settled(check, known) for check in failed):
        return verification
    settled: dict[str, CaseCheck] = {}
    with source.weights_kept():
        session = session_for(file, [known[check.name] for check in failed])
        for check in failed:
            found = _settle(session, source, known[check.name], check, batch_axes)
            if found is None:
                return verification
            settled[check.name] = found
    checks = tuple(settled.get(check.name, check) for check in verification.cases)
    return replace(verification, cases=checks, passed=True, compared=sizes_compared(checks))


def _can_be_settled(check: CaseCheck, known: Mapping[str, Case]) -> bool:
    """Whether the outputs of a single call are too far off, and nothing else is wrong."""
    case = known.get(check.name)
    measured = case is not None and case.rounding is not None and case.rounding.method == FLOAT64
    return measured and check.error is None and any(not output.ok for output in check.outputs)


def _settle(
    session: OnnxSession, source: Source, case: Case, check: CaseCheck, batch_axes: Mapping[str, int]
) -> CaseCheck | None:
    """The check of a case that agrees row by row; None where it does not."""
    inputs = {spec.name for spec in (*session.inputs, *session.optional)}
    found = session.run({name: value for name, value in case.inputs.items() if name in inputs})
    assert case.rounding is not None
    run = source.measured({name: value for name, value in case.inputs.items() if name != NUM_LOGITS_TO_KEEP})
    spread = measure_spread(run, _MOVED) or {}
    outputs = [_with_noise(output, case.rounding.noise, spread) for output in check.outputs]
    allowed = {output.name: output.tolerance for output in outputs}
    if all(output.ok for output in outputs):
        return replace(check, outputs=tuple(outputs), ok=True)
    rows = [_Row(errors) for errors in _row_errors(case.outputs, found, case.rounding.moved, batch_axes)]
    for other in _other_results(run, case):
        moved = distances(case.outputs, other)
        if moved is None:  # other shapes
            continue
        for row, errors in zip(rows, _row_errors(case.outputs, found, moved, batch_axes), strict=True):
            turned = _Row(errors, turned=True)
            if row.excess(allowed) > 1 and turned.excess(allowed) < row.excess(allowed):
                row.errors, row.turned = errors, True
        if all(row.excess(allowed) <= 1 for row in rows):
            nearest = tuple(_nearest(output, rows) for output in outputs)
            return replace(check, outputs=nearest, ok=True, inner_ties=sum(row.turned for row in rows))
    return None


def _with_noise(output: OutputCheck, noise: Mapping[str, float], spread: Arrays) -> OutputCheck:
    """With the tolerance that moved numbers ask for, where that is larger."""
    moved = float(spread.get(output.name, 0.0))
    if output.graph_error is None or moved <= noise.get(output.name, 0.0):
        return output
    tolerance = measured_tolerance(moved, output.scale)
    return replace(output, tolerance=tolerance, ok=output.graph_error <= tolerance)


def _other_results(run: MeasuredRun, case: Case) -> Iterator[Arrays]:
    for seed in _SEEDS:
        try:
            other = run.decided_otherwise(seed)
        except Exception:  # as for any run in float64: an operator without it, no memory
            return
        if other is None:
            continue
        if NUM_LOGITS_TO_KEEP in case.inputs:
            other["logits"] = other["logits"][:, -case.outputs["logits"].shape[1] :]
        yield other


def _row_errors(
    wanted: Arrays, found: Arrays, moved: Arrays, batch_axes: Mapping[str, int]
) -> list[dict[str, float]]:  # fmt: skip
    """For each row: output -> distance from the source in float64."""
    sizes = {wanted[name].shape[axis] for name, axis in batch_axes.items() if name in wanted}
    if len(sizes) != 1 or any(name not in batch_axes for name in wanted):
        return [{name: max_error(value, found[name], moved.get(name)) for name, value in wanted.items()}]
    (rows,) = sizes

    def of_row(arrays: Arrays, name: str, row: int) -> np.ndarray:
        return np.ascontiguousarray(np.take(arrays[name], row, axis=batch_axes[name]))

    return [
        {
            name: max_error(
                of_row(wanted, name, row), of_row(found, name, row), of_row(moved, name, row) if name in moved else None
            )
            for name in wanted
        }
        for row in range(rows)
    ]


def _nearest(output: OutputCheck, rows: Sequence[_Row]) -> OutputCheck:
    return replace(output, ok=True, graph_error=max(row.errors[output.name] for row in rows))
