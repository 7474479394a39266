"""What the report shows of a manifest: plain data for the template."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxport.artifact.manifest import Component, Manifest
from onnxport.report.charts import Chart, PartPicture, error_chart, module_chart, part_pictures
from onnxport.report.words import DASH, TIMES, bytes_text, count_text, number_text, share_text, sizes_text
from onnxport.specs import CaseCheck, ModuleError, OutputCheck, Verification

# Kind of proof of the ledger -> colour and what it means.
_PROOFS = {
    "exact": ("p1", "the bytes of the checkpoint, as they are"),
    "transformed": ("p2", "the bytes of the checkpoint after a recorded transform"),
    "source": ("p3", "the bytes of the model in memory before the export"),
    "computed": ("p4", "computed from the checkpoint again, equal up to rounding"),
    "bounded": ("p5", "quantized, each element within its step"),
    "constant": ("p6", "a constant of the model's code"),
    "unproved": ("p0", "not compared"),
}
_OPERATORS, _CASE_ROWS, _OUTPUT_ROWS, _UNUSED = 16, 60, 6, 40


@dataclass(frozen=True)
class Tile:
    """One number at the top.

    Attributes:
        state: "good", "bad" or "plain".
    """

    value: str
    label: str
    state: str = "plain"


@dataclass(frozen=True)
class Slice:
    """A part of a bar; `share` in percent."""

    name: str
    colour: str
    meaning: str
    amount: str
    share: float
    share_text: str


@dataclass(frozen=True)
class LedgerView:
    """The weights of one graph by how they were proved."""

    graph: str
    total: str
    proved: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class CaseView:
    """One row of the table of cases: the output that is nearest to its tolerance, or those beyond it."""

    name: str
    sizes: str
    outputs: tuple[tuple[OutputCheck, str, str, str, str], ...]
    more: int
    decision: str
    error: str
    ok: bool


@dataclass(frozen=True)
class GraphView:
    """One graph."""

    component: Component
    facts: tuple[tuple[str, str], ...]
    chart: Chart | None
    cases: tuple[CaseView, ...]
    omitted: int
    verdict: str
    ok: bool | None
    layers: Chart | None
    operators: tuple[tuple[str, int, float], ...]
    more_operators: int


@dataclass(frozen=True)
class VariantView:
    """A graph that was made from another one."""

    name: str
    base: str
    precision: str
    size: str
    share: float
    share_text: str
    error: str
    decision: str
    ok: bool | None


def view_of(
    manifest: Manifest, name: str, layers: dict[str, Sequence[ModuleError]], *, published: bool
) -> dict[str, Any]:
    """The variables of the template.

    Args:
        name: of the folder.
        layers: graph -> error after each of its layers, against the graph that it was made from.
        published: False for a conversion that failed: the folder does not exist.
    """
    converted = manifest.converted()
    checks = [component.verification for component in converted]
    known = [check for check in checks if check is not None]
    passed = all(check.passed for check in known) if known else None
    if manifest.folder_run is not None and not manifest.folder_run.equal:
        passed = False
    decisions = [case.decision_agreement for check in known for case in check.cases]
    return {
        "manifest": manifest,
        "name": name,
        "published": published,
        "passed": passed,
        "tiles": _tiles(manifest, converted, known),
        "facts": _facts(manifest, converted),
        "parts": part_pictures(converted, [_part_detail(component) for component in converted]),
        "ledgers": [_ledger(component) for component in manifest.components if component.ledger],
        "unused": _unused(manifest.unused),
        "graphs": [_graph(component, layers.get(component.name, ())) for component in manifest.components],
        "differences": [
            (component.name, component.verification.difference)
            for component in manifest.components
            if component.verification is not None and component.verification.difference is not None
        ],
        "variants": [_variant(component, manifest) for component in manifest.components if component.derived_from],
        "decided": [one for one in decisions if one is not None],
        "folder_run": manifest.folder_run,
        "restrictions": [(c.name, r) for c in manifest.components for r in c.restrictions],
        "commands": _commands(manifest, name, published=published),
    }  # fmt: skip


def _tiles(manifest: Manifest, converted: Sequence[Component], checks: Sequence[Verification]) -> list[Tile]:
    cases = [case for check in checks for case in check.cases]
    good = sum(case.ok for case in cases)
    tiles = []
    if cases:
        tiles.append(Tile(f"{good} / {len(cases)}", "cases agree", "good" if good == len(cases) else "bad"))
        shares = [_of_tolerance(output) for case in cases for output in case.outputs]
        if shares:
            worst = max(shares)
            tiles.append(
                Tile(f"{number_text(worst)}{TIMES}", "of the tolerance at most", "good" if worst <= 1 else "bad")
            )
        agreed = [case.decision_agreement for case in cases if case.decision_agreement is not None]
        if agreed:
            kind = next(case.decision for case in cases if case.decision)
            state = "good" if min(agreed) >= 1 else "plain"
            tiles.append(Tile(share_text(min(agreed)), f"of decisions equal ({kind})", state))
    ledgers = [ledger for component in converted if (ledger := component.ledger) is not None]
    if ledgers:
        total, proved = (sum(getattr(one, field) for one in ledgers) for field in ("total_bytes", "proved_bytes"))
        share = proved / total if total else 1.0
        tiles.append(Tile(share_text(share), "of weight bytes proved", "good" if share >= 1 else "plain"))
    tiles.append(Tile(count_text(sum(component.parameters for component in converted)), "parameters"))
    tiles.append(Tile(bytes_text(sum(component.size_bytes for component in converted)), "graphs and weights"))
    return tiles


def _facts(manifest: Manifest, converted: Sequence[Component]) -> list[tuple[str, str]]:
    frameworks = {"pt": "PyTorch", "tf": "TensorFlow"}
    opsets = sorted({component.opset for component in converted})
    return [
        ("Source model", manifest.source),
        ("Architecture", manifest.architecture),
        ("Task", manifest.task),
        ("Framework", frameworks.get(manifest.framework, manifest.framework)),
        ("Opset", ", ".join(map(str, opsets))),
        ("Compared with", next((c.verification.source for c in converted if c.verification), DASH)),
        ("Run by", next((c.verification.runtime for c in converted if c.verification), DASH)),
    ]


def _part_detail(component: Component) -> str:
    return f"{component.precision}, {count_text(component.parameters)} parameters, {bytes_text(component.size_bytes)}"


def _ledger(component: Component) -> LedgerView:
    ledger: Any = component.ledger
    total = max(ledger.total_bytes, 1)
    order = [*_PROOFS, *(name for name in ledger.bytes if str(name) not in _PROOFS)]
    found = {str(kind): count for kind, count in ledger.bytes.items()}
    slices = []
    for kind in order:
        if found.get(kind):
            colour, meaning = _PROOFS.get(kind, ("p0", ""))
            share = found[kind] / total
            slices.append(
                Slice(kind, colour, meaning, bytes_text(found[kind]), round(share * 100, 3), share_text(share))
            )  # fmt: skip
    proved = share_text(ledger.proved_bytes / total) if ledger.total_bytes else DASH
    return LedgerView(component.name, bytes_text(ledger.total_bytes), proved, tuple(slices))


def _unused(unused: Any) -> list[tuple[str, str, str]]:
    if unused is None:
        return []
    rows = [("tensor of the checkpoint", *item) for item in unused.checkpoint.items()]
    return [*rows, *(("parameter of the model", *item) for item in unused.parameters.items())][:_UNUSED]


def _graph(component: Component, layers: Sequence[ModuleError]) -> GraphView:
    verification = component.verification
    most = sorted(component.operators.items(), key=lambda item: (-item[1], item[0]))
    largest = most[0][1] if most else 1
    modules = verification.difference.modules if verification is not None and verification.difference else ()
    shown = [
        ("File", component.file),
        ("Precision", component.precision),
        ("Parameters", f"{component.parameters:,}"),
        ("Size", bytes_text(component.size_bytes)),
        ("Fixes", ", ".join(component.fixes) or "none"),
    ]
    cases = verification.cases if verification is not None else ()
    return GraphView(
        component, tuple(shown), error_chart(verification) if verification is not None else None,
        tuple(_case(case) for case in cases[:_CASE_ROWS]), max(len(cases) - _CASE_ROWS, 0),
        _verdict(verification), verification.passed if verification is not None else None,
        module_chart(modules, "against the source", against_source=True)
        if modules else module_chart(layers, f"against {component.derived_from}"),
        tuple((name, count, round(100 * count / largest, 2)) for name, count in most[:_OPERATORS]),
        max(len(most) - _OPERATORS, 0),
    )  # fmt: skip


def _verdict(verification: Verification | None) -> str:
    if verification is None:
        return "No verification is on record."
    good = sum(case.ok for case in verification.cases)
    return f"{good} of {len(verification.cases)} cases agree with {verification.source}."


def _case(case: CaseCheck) -> CaseView:
    failed = [output for output in case.outputs if not output.ok]
    shown = failed or sorted(case.outputs, key=_of_tolerance)[-1:]
    decision = ""
    if case.decision is not None and case.decision_agreement is not None:
        decision = f"{share_text(case.decision_agreement)} same {case.decision}"
    rows = tuple(
        (output, number_text(output.source_error), number_text(output.judged_error), number_text(output.tolerance),
         f"{number_text(_of_tolerance(output))}{TIMES}")
        for output in shown[:_OUTPUT_ROWS]
    )  # fmt: skip
    more = len(case.outputs) - len(rows)
    return CaseView(case.name, sizes_text(case.sizes), rows, more, decision, case.error or "", case.ok)


def _of_tolerance(output: OutputCheck) -> float:
    """The error as a share of its tolerance."""
    if math.isnan(output.judged_error):
        return math.inf
    if output.tolerance:
        return output.judged_error / output.tolerance
    return 0.0 if output.judged_error == 0 else math.inf


def _variant(component: Component, manifest: Manifest) -> VariantView:
    base = manifest.find(component.derived_from)
    share = component.size_bytes / base.size_bytes if base is not None and base.size_bytes else 1.0
    verification = component.verification
    error, decision = DASH, DASH
    if verification is not None:
        distance = verification.distance
        error = number_text(distance.max_rel_error if distance is not None else verification.max_rel_error)
        agreed = [case.decision_agreement for case in verification.cases if case.decision_agreement is not None]
        if distance is not None and distance.agreement is not None:
            agreed = [distance.agreement]
        decision = share_text(min(agreed)) if agreed else DASH
    return VariantView(
        component.name, component.derived_from or "", component.precision, bytes_text(component.size_bytes),
        round(min(share, 1.0) * 100, 2), share_text(min(share, 9.99)), error, decision,
        verification.passed if verification is not None else None,
    )  # fmt: skip


def _commands(manifest: Manifest, name: str, *, published: bool) -> list[tuple[str, str]]:
    source, folder = shlex.quote(manifest.source or "MODEL"), shlex.quote(name)
    task = "" if manifest.task in ("module", "") else f" --task {shlex.quote(manifest.task)}"
    version = manifest.versions.get("onnxport", "")
    install = f"pip install 'onnxport[{'tensorflow' if manifest.framework == 'tf' else 'pytorch'}]=={version}'"
    commands = [
        ("Install the version that wrote this folder", install),
        ("Convert the model again", f"onnxport convert {source} {folder}{task}"),
    ]
    if published:
        commands.append(
            ("Check every file, and compare the numbers again", f"onnxport verify {folder} --against {source}")
        )
    if published and any(component.derived_from for component in manifest.components):
        commands.append(("Compare the variants with their graphs", f"onnxport compare {folder}"))
    return commands


__all__ = ["PartPicture", "view_of"]
