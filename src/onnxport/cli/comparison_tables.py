"""Tables of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxport.cli.tables import new_table, sizes_text
from onnxport.verification.comparison.result import Change, GraphComparison, LayerComparison, WeightChange

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = 12  # rows of a table of weights or operators
_LAYERS = 8


def comparison_tables(graph: GraphComparison) -> list[Table]:
    """What is different between two graphs; a table for each kind of difference that there is."""
    tables = []
    if graph.changes:
        tables.append(changes_table(f"{graph.a} and {graph.b}", graph.changes, graph.a, graph.b))
    if graph.operators:
        tables.append(_operators(graph))
    tables.append(_weights(graph))
    if graph.cases:
        tables.append(_numbers(graph))
    if growing := largest_jumps(graph.layers):
        tables.append(_layers(growing))
    return tables


def changes_table(title: str, changes: Sequence[Change], a: str = "A", b: str = "B") -> Table:
    """What both sides have, with different values."""
    table = new_table(title, ["what", "name", a, b])
    for change in changes[: 3 * _SHOWN]:
        table.add_row(change.kind, change.name, change.a or "-", change.b or "-")
    if len(changes) > 3 * _SHOWN:
        table.add_row(f"{len(changes) - 3 * _SHOWN} more", "", "", "")
    return table


def largest_jumps(layers: Sequence[LayerComparison], count: int = _LAYERS) -> list[LayerComparison]:
    """The values at which the error grows most, largest first."""
    return sorted((layer for layer in layers if layer.jump > 0), key=lambda layer: -layer.jump)[:count]


def _operators(graph: GraphComparison) -> Table:
    table = new_table("operators", ["operator", graph.a, graph.b], right=(graph.a, graph.b))
    most = sorted(graph.operators.items(), key=lambda item: -abs(item[1][0] - item[1][1]))
    for name, (before, after) in most[:_SHOWN]:
        table.add_row(name, str(before), str(after))
    if len(most) > _SHOWN:
        table.add_row(f"{len(most) - _SHOWN} more", "", "")
    return table


def _weights(graph: GraphComparison) -> Table:
    title = f"weights: {graph.same_weights} equal, {graph.same_elements:,} elements"
    table = new_table(title, ["weight", "layer", "how", "shape", "max rel change"], right=("max rel change",))
    shown = sorted((w for w in graph.weights if w.how != "renamed"), key=lambda weight: -(weight.error or 0))
    if not shown:
        table.add_row("none differs", "", "", "", "")
    for weight in shown[:_SHOWN]:
        table.add_row(*_weight_cells(weight))
    if len(shown) > _SHOWN:
        table.add_row(f"{len(shown) - _SHOWN} more", "", "", "", "")
    return table


def _weight_cells(weight: WeightChange) -> tuple[str, ...]:
    shape = "x".join(map(str, weight.shape)) or "scalar"
    error = "" if weight.error is None or weight.how == "transposed" else f"{weight.error:.2e}"
    return weight.name, weight.layer, weight.how, f"{weight.dtype} {shape}", error


def _numbers(graph: GraphComparison) -> Table:
    numbers = ("abs error", "rel error", "tolerance", "cosine")
    decision = next((case.decision for case in graph.cases if case.decision), None)
    columns = ["sizes", "output", *numbers, *([f"same {decision}"] if decision else []), "ok"]
    table = new_table(f"outputs, tolerance of {graph.precision}", columns, right=(*numbers, f"same {decision}"))
    for case in graph.cases:
        sizes = sizes_text(case.sizes)
        if case.error is not None:
            table.add_row(sizes, case.error, *[""] * (len(columns) - 3), "NO", style="red")
        for number, output in enumerate(case.outputs):
            cells = [
                sizes if number == 0 else "", output.name, f"{output.max_abs_error:.2e}",
                f"{output.max_rel_error:.2e}", f"{output.tolerance:.2e}",
                "" if output.cosine is None else f"{output.cosine:.6f}",
            ]  # fmt: skip
            if decision:
                agreement = case.decision_agreement if number == 0 else None
                cells.append("" if agreement is None else f"{agreement:.1%}")
            table.add_row(*cells, "yes" if output.ok else "NO", style=None if output.ok else "red")
    return table


def _layers(layers: Sequence[LayerComparison]) -> Table:
    numbers = ("rel error", "grows by", "cosine")
    table = new_table("where the error grows most", ["layer", "operator", "value", *numbers], right=numbers)
    for layer in layers:
        alike = "" if layer.cosine is None else f"{layer.cosine:.6f}"
        table.add_row(
            layer.layer, layer.operator, layer.value, f"{layer.error:.2e}", f"{layer.jump:.2e}", alike
        )  # fmt: skip
    return table
