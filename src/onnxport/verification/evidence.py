"""Run the source model and keep its outputs; run the graph on the same inputs and compare.

`record_evidence` runs before the exporter changes the model; `verify_graph` needs the written graph alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxport.errors import VerificationError
from onnxport.export.signature import Signature
from onnxport.loading.parts import Part
from onnxport.sources.base import Generates
from onnxport.specs import CaseCheck, ComparedSizes, OutputCheck, Restriction, TensorSpec, Verification, compared_sizes
from onnxport.tensor_names import NUM_LOGITS
from onnxport.verification.case import Case
from onnxport.verification.cases import record
from onnxport.verification.compare import LOAD, compare
from onnxport.verification.greedy import GreedyCase, check_greedy, record_greedy
from onnxport.verification.level import Level
from onnxport.verification.structure import Structure
from onnxport.verification.tolerance import FACTOR, QUANTIZED, TOLERANCES


@dataclass(frozen=True)
class Evidence:
    """Inputs, and the outputs of the source for them.

    Attributes:
        cases: single calls.
        greedy: whole generations, where the part is a decoder.
        decision: what a user sees in the outputs (`Task.decision`).
        source: name and version of what ran.
        precision: what it computes in, a row of `tolerance.TOLERANCES`.
        level: how much was recorded.
        structure: how the source's outputs move when its inputs are changed.
        restrictions: found while the source ran.
    """

    cases: list[Case]
    greedy: list[GreedyCase]
    decision: str | None
    source: str
    precision: str = "float32"
    level: Level = Level.STANDARD
    structure: Structure | None = None
    restrictions: tuple[Restriction, ...] = ()

    @property
    def single_calls(self) -> list[Case]:
        """All calls whose values are compared."""
        changes = self.structure.changes if self.structure is not None else ()
        return [*self.cases, *(change.case for change in changes if change.judged)]

    @property
    def count(self) -> int:
        """Number of sets of inputs."""
        return len(self.cases) + len(self.greedy) + (self.structure is not None)


def record_evidence(part: Part, signature: Signature, level: Level = Level.STANDARD) -> Evidence:
    """Run the source in float32 and in float64, where that is possible.

    Args:
        level: how much is compared.

    Raises:
        ExportError: as `cases.record`.
    """
    source = part.source
    found = record(source, signature, level)
    greedy = record_greedy(source, signature.generator, level) if isinstance(source, Generates) else []
    return Evidence(
        found.cases, greedy, part.decision, f"{source.version} ({source.architecture})",
        getattr(source, "precision", "float32"), level, found.structure, found.restrictions,
    )  # fmt: skip


def verify_graph(
    file: Path,
    evidence: Evidence,
    outputs: Sequence[TensorSpec],
    *,
    precision: str = "float32",
    before: Sequence[Path] = (),
) -> Verification:
    """Run a graph on all inputs of the evidence and compare.

    Args:
        outputs: with their axes as declared.
        precision: of the graph, a row of `tolerance.TOLERANCES`; float32 is what the source computes in.
        before: the graphs that run before a decoder's.
    """
    precision = evidence.precision if precision == "float32" else precision
    cases = [case for case in evidence.cases if not (case.far and precision in QUANTIZED)]
    found = compare(
        file, cases, decision=evidence.decision, outputs=outputs, source=evidence.source,
        precision=precision, structure=evidence.structure,
    )  # fmt: skip
    checks = check_greedy(evidence.greedy, file, before, TOLERANCES[precision]) if evidence.greedy else ()
    return replace(
        found,
        cases=(*found.cases, *checks),
        passed=found.passed and all(check.ok for check in checks),
        level=str(evidence.level),
        compared=sizes_compared(found.cases),
    )


def within_limits(evidence: Evidence, verification: Verification) -> tuple[Verification, tuple[Restriction, ...]]:
    """Restrict a graph that is wrong only where a restriction is the answer (`Case.limit`).

    Returns:
        The verification without the cases beyond the restrictions, and these.
    """
    limits = {case.name: case.limit for case in evidence.cases if case.limit is not None}
    failed = [case for case in verification.cases if not case.ok]
    found = tuple(dict.fromkeys(limits[case.name] for case in failed if case.name in limits))
    if not found or any(case.name not in limits for case in failed):
        return verification, evidence.restrictions
    kept = tuple(case for case in verification.cases if case.ok)
    return replace(verification, cases=kept, passed=True, compared=sizes_compared(kept)), (
        *evidence.restrictions, *found,
    )  # fmt: skip


def sizes_compared(cases: Sequence[CaseCheck]) -> tuple[ComparedSizes, ...]:
    """By single calls, of input axes alone: a generation has other sizes."""
    return compared_sizes(
        replace(case, sizes={axis: size for axis, size in case.sizes.items() if axis != NUM_LOGITS})
        for case in cases
        if case.outputs
    )


def require_agreement(verification: Verification, *, allow_mismatch: bool = False) -> None:
    """Stop at a graph whose outputs differ from the source's.

    Raises:
        VerificationError: with the first case and output that differ.
    """
    if verification.passed or allow_mismatch:
        return
    case = next(case for case in verification.cases if not case.ok)
    where = ", ".join(f"{name} {size}" for name, size in case.sizes.items())
    if case.name == LOAD:
        raise VerificationError(
            f"{case.error}.",
            hint="Try another --opset, or another type of numbers in the model if it is no float32.",
            verification=verification,
        )
    hint = "Try another --opset. --allow-mismatch publishes it all the same, with this on record."
    if case.error is not None:
        what = case.error
    else:
        output = next(output for output in case.outputs if not output.ok)
        what = _difference(output)
        if output.source_error is not None and FACTOR * output.source_error > output.tolerance:
            hint = (
                "The model amplifies rounding so much that no graph can be proved to be it: the same model gives such "
                "differences from one machine to the next. --allow-mismatch publishes the graph, with this on record."
            )
    raise VerificationError(
        f"The graph disagrees with the source model in the case {case.name!r} ({where}): {what}.",
        hint=hint,
        verification=verification,
    )


def _difference(output: OutputCheck) -> str:
    what = f"{output.name} {list(output.shape)} is off by {output.judged_error:.3g} at most"
    allowed = f"{output.tolerance:.3g} is allowed"
    if output.source_error is None:
        return f"{what}, {allowed}"
    if output.graph_error is None:
        return f"{what}, {allowed}; rounding alone moves the source's by {output.source_error:.3g}"
    return f"{what} from the source in float64, {allowed}; the source in float32 is off by {output.source_error:.3g}"
