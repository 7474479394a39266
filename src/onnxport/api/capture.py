"""The middle of the recipe: axes, reference numbers and graphs of every part of a model, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxport.api.build_graph import Graph, build_graph
from onnxport.errors import ExportError
from onnxport.export.signature import Signature, infer_signature
from onnxport.loading.model_to_export import ModelToExport
from onnxport.specs import Limit, Verification
from onnxport.system.timing import Stopwatch
from onnxport.verification.evidence import Evidence, record_evidence, verify_graph, within_limits
from onnxport.verification.ledger.graph_weights import GraphWeights, expect_weights, record_weights
from onnxport.verification.ledger.unused_parameters import NOT_READ, describe
from onnxport.verification.level import Level


@dataclass(frozen=True)
class CapturedGraph:
    """A graph before it is written, and what it will be held against.

    Attributes:
        name: of the component in the folder.
        weights: what its weights must be.
    """

    name: str
    graph: Graph
    evidence: Evidence
    weights: GraphWeights


def capture_graphs(
    to_export: ModelToExport,
    opset: int,
    watch: Stopwatch,
    *,
    keep_stored: bool = False,
    level: Level = Level.STANDARD,
    require_dynamic: bool = False,
) -> list[CapturedGraph]:
    """The graphs of `to_export`. The reference is computed before the exporter touches the model.

    Args:
        opset: of the graphs.
        watch: told about the steps.
        keep_stored: as for `build_graph`.
        level: how much is compared.
        require_dynamic: an axis that the source varies must not become static.

    Raises:
        ExportError: the model does not run, cannot be captured, or gets a static axis that must not be.
    """
    parts = to_export.parts
    sources = record_weights(to_export)
    with watch.step("infer shapes", "Infer shapes") as step, to_export.source.weights_kept():
        signatures = [infer_signature(part.source, part.generator) for part in parts]
        step.done(_axes_summary(signatures))
    with watch.step("reference", "Run the source model") as step:
        evidence = [record_evidence(part, signature, level) for part, signature in zip(parts, signatures, strict=True)]
        step.done(f"{sum(e.count for e in evidence)} sets of inputs")
    with watch.step("export", f"Export to opset {opset}") as step:
        graphs: list[Graph] = []
        for part, signature in zip(parts, signatures, strict=True):
            graphs.append(build_graph(part.source, signature, opset, keep_stored=keep_stored, others=graphs))
        step.done(f"{sum(sum(graph.stats.operators.values()) for graph in graphs)} nodes")
    if require_dynamic:
        _require_dynamic(to_export.architecture, signatures, [graph.signature for graph in graphs])
    for index, (before, graph) in enumerate(zip(signatures, graphs, strict=True)):
        after = graph.signature
        if after.accepted != before.accepted or after.multiples != before.multiples:
            with watch.step("reference", "Run the source model again, at the axes that the export allows"):
                evidence[index] = record_evidence(parts[index], after, level)
    for note in static_axes([graph.signature for graph in graphs]):
        watch.reporter.note(note)
    weights = expect_weights(to_export, sources, graphs)
    unread = sorted({name for one in weights for name, why in one.unused.items() if why == NOT_READ})
    if unread:
        watch.reporter.note(f"The model's code does not use {describe(unread)}; no graph holds it.")
    return [
        CapturedGraph(part.name, graph, found, expected)
        for part, graph, found, expected in zip(parts, graphs, evidence, weights, strict=True)
    ]


def static_axes(signatures: Sequence[Signature]) -> list[str]:
    """A line for each axis that varies in the source and is static in the graph."""
    return [
        f"{r.axis} is {r.rule} in the graph: {r.reason}."
        for r in dict.fromkeys(r for signature in signatures for r in signature.restrictions)
        if r.limit is Limit.FIXED
    ]


def _require_dynamic(name: str, before: Sequence[Signature], after: Sequence[Signature]) -> None:
    """Compare the axes that the source varies with those of the graphs.

    Raises:
        ExportError: one of them is static in a graph.
    """
    lost = {
        f"{r.axis} is {r.rule} in the graph ({r.reason})": r.axis
        for source, graph in zip(before, after, strict=True)
        for r in graph.restrictions
        if r.limit is Limit.FIXED and r.axis in source.accepted and r.axis not in graph.accepted
    }
    if lost:
        raise ExportError(
            f"{name} runs with several sizes of {' and '.join(dict.fromkeys(lost.values()))}, but {'; '.join(lost)}.",
            hint="Leave --require-dynamic out to convert with these sizes.",
        )


def verify_captured(
    captured: CapturedGraph, file: Path, files: Sequence[Path], precision: str = "float32"
) -> Verification:
    """Run what was written for `captured` in `file`, one of `files`, which run in this order.

    A restriction that this shows becomes one of the graph's signature.
    """
    before, graph = tuple(files[: files.index(file)]), captured.graph
    found = verify_graph(file, captured.evidence, graph.signature.outputs, precision=precision, before=before)
    found, restrictions = within_limits(captured.evidence, found)
    graph.signature = graph.signature.restricted(restrictions)
    return found


def _axes_summary(signatures: Sequence[Signature]) -> str:
    inputs = [spec for signature in signatures for spec in signature.inputs]
    dynamic = list(dict.fromkeys(axis for spec in inputs for axis in spec.axes if isinstance(axis, str)))
    return (
        f"{len(inputs)} inputs, {sum(len(signature.outputs) for signature in signatures)} outputs, "
        + (f"dynamic: {', '.join(dynamic)}" if dynamic else "all axes fixed")
    )  # fmt: skip
