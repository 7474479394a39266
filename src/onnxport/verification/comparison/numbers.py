"""Two graphs on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxport.artifact.manifest import Component
from onnxport.axes import names_in
from onnxport.graph.inputs import guess_sizes, random_inputs, verified_sizes
from onnxport.runtime.session import OnnxSession
from onnxport.specs import TensorSpec
from onnxport.system.library_errors import first_line
from onnxport.verification.compare import max_error
from onnxport.verification.comparison.layers import Arrays, cosine
from onnxport.verification.comparison.result import CaseComparison, OutputComparison
from onnxport.verification.decisions import decide
from onnxport.verification.tolerance import fixed_tolerance, scale_of

_CASES = 4
SEED = 0


@dataclass(frozen=True)
class Inputs:
    """What both graphs are run on.

    Attributes:
        sizes: axis -> size.
        arrays: for both graphs.
    """

    sizes: dict[str, int]
    seed: int
    arrays: Arrays


def shared_inputs(a: Component, b: Component, vocabulary: int) -> list[Inputs]:
    """Random inputs at sizes that both graphs were verified at; at guessed ones where none is known.

    Args:
        vocabulary: token ids are below this number.
    """
    specs: dict[str, TensorSpec] = {spec.name: spec for spec in (*b.inputs, *a.inputs)}
    axes = {name for spec in specs.values() for axis in spec.axes for name in names_in(axis)}
    restrictions = (*a.restrictions, *b.restrictions)
    fixed = {r.axis: r.nearest(1) for r in restrictions if r.nearest(1) == r.nearest(10**6)}
    known = [*verified_sizes(a), *verified_sizes(b), guess_sizes(a.inputs, 3)]
    sizes = [{**guess_sizes([*specs.values()]), **one, **fixed} for one in known]
    usable = [one for one in sizes if axes <= one.keys() and all(r.holds(one) for r in restrictions)]
    distinct = [*{tuple(sorted(one.items())): one for one in usable}.values()][:_CASES]
    return [
        Inputs(one, SEED + number, random_inputs([*specs.values()], one, vocabulary, SEED + number))
        for number, one in enumerate(distinct)
    ]


def compare_numbers(
    sessions: tuple[OnnxSession, OnnxSession], inputs: Sequence[Inputs], precision: str, decision: str | None
) -> list[CaseComparison]:
    """Run both graphs on all inputs.

    Args:
        precision: row of `tolerance.TOLERANCES`.
        decision: what a user sees in the outputs (`Task.decision`).
    """
    return [_compare(sessions, one, precision, decision) for one in inputs]


def _compare(
    sessions: tuple[OnnxSession, OnnxSession], inputs: Inputs, precision: str, decision: str | None
) -> CaseComparison:
    found: list[Arrays] = []
    for session in sessions:
        known = {spec.name for spec in (*session.inputs, *session.optional)}
        try:
            found.append(session.run({name: value for name, value in inputs.arrays.items() if name in known}))
        except Exception as error:  # whatever the run time says is the finding
            return CaseComparison(inputs.sizes, inputs.seed, (), error=f"{session.file.name}: {first_line(error)}")
    one, other = found
    outputs = tuple(_output(name, one[name], other[name], precision) for name in one if name in other)
    agreement = None
    decided = [decide(decision, outputs, inputs.arrays) if decision else None for outputs in found]
    if decided[0] is not None and decided[1] is not None and decided[0].shape == decided[1].shape:
        agreement = float((decided[0] == decided[1]).mean())
    return CaseComparison(
        inputs.sizes, inputs.seed, outputs, decision if agreement is not None else None, agreement
    )  # fmt: skip


def _output(name: str, one: np.ndarray, other: np.ndarray, precision: str) -> OutputComparison:
    if one.shape != other.shape:
        infinite = float("inf")
        return OutputComparison(name, tuple(other.shape), infinite, infinite, 0.0, None, False)
    error, scale = max_error(one, other), scale_of(one)
    tolerance = fixed_tolerance(precision, scale) if one.dtype.kind == "f" else 0.0
    alike = cosine(one, other) if one.dtype.kind == "f" else None
    return OutputComparison(
        name, tuple(other.shape), error, error / scale if scale else error, tolerance, alike, error <= tolerance
    )  # fmt: skip
