"""Tables of verifications, of the inputs and outputs of graphs, of tasks and of environments."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from onnxport.specs import CaseCheck, OutputCheck, Restriction, TensorSpec, Verification
from onnxport.tasks import Task

if TYPE_CHECKING:
    from rich.table import Table

    from onnxport.api.inspect import GraphInspection
    from onnxport.artifact.tuning import Loss, Tuning
    from onnxport.environments import Status
    from onnxport.variants.fusion_reasons import FusionKind

_MOST_OPERATORS = 12
_NUMBERS = ("abs error", "rel error", "tolerance")
# Where it is known how far rounding moves the source: that, and the error of the graph.
_MEASURED = ("source error", "graph error", "tolerance")


def verification_table(name: str, verification: Verification) -> Table:
    """A row for each set of inputs: the output nearest to its tolerance, or all outputs that failed.

    Errors are distances from the source in float64 where the source was also run in float64.
    """
    numbers = _MEASURED if _is_measured(verification) else _NUMBERS
    several = any(len(case.outputs) > 1 for case in verification.cases)
    decision = next((case.decision for case in verification.cases if case.decision_agreement is not None), None)
    columns = [
        "case",
        "sizes",
        *(["output"] if several else []),
        *numbers,
        *([f"same {decision}"] if decision else []),
        "ok",
    ]
    table = _table(
        f"{name}: {verification.source} against {verification.runtime}", columns, narrow=(*numbers, "ok", columns[-2])
    )
    for case in verification.cases:
        checks: Sequence[OutputCheck | None] = shown_outputs(case) or [None]
        for number, check in enumerate(checks):
            row = [case.name if number == 0 else "", sizes_text(case.sizes) if number == 0 else ""]
            row += [check.name if check else ""] if several else []
            row += (
                _error_cells(check, numbers)
                if check
                else [case.error or ("" if case.decision else "no output"), "", ""]
            )
            row += [_agreement(case) if number == 0 else ""] if decision else []
            good = check.ok if check else case.ok
            table.add_row(*row, "yes" if good else "NO", style=None if good else "red")
    table.caption = "\n".join(filter(None, (verification.compared_text, verification.limits_text))) or None
    table.caption_justify = "left"
    return table


def shown_outputs(case: CaseCheck) -> list[OutputCheck]:
    """The outputs that failed, or else the output nearest to its tolerance."""
    failed = [check for check in case.outputs if not check.ok]
    if failed or not case.outputs:
        return failed
    return [max(case.outputs, key=lambda check: check.judged_error / check.tolerance if check.tolerance else 0.0)]


def _is_measured(verification: Verification) -> bool:
    return any(check.source_error is not None for case in verification.cases for check in case.outputs)


def _error_cells(check: OutputCheck, numbers: Sequence[str]) -> list[str]:
    """Of an output, the numbers of the columns."""
    if numbers is _NUMBERS:
        return [f"{check.max_abs_error:.2e}", f"{check.max_rel_error:.2e}", f"{check.tolerance:.2e}"]
    source = "" if check.source_error is None else f"{check.source_error:.2e}"
    return [source, f"{check.judged_error:.2e}", f"{check.tolerance:.2e}"]


def sizes_text(sizes: dict[str, int]) -> str:
    """`batch 2, sequence 11`: names without "_size" and "_length", to keep rows short."""
    return ", ".join(f"{axis.removesuffix('_size').removesuffix('_length')} {size}" for axis, size in sizes.items())


def _agreement(case: CaseCheck) -> str:
    return "" if case.decision_agreement is None else f"{case.decision_agreement:.1%}"


def tensors_table(name: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> Table:
    """Inputs and outputs with their types and axes."""
    table = _table(name, ["", "name", "type", "axes"])
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            table.add_row(kind, spec.name, spec.dtype, ", ".join(map(str, spec.axes)) or "scalar")
    return table


def restrictions_table(restrictions: Iterable[Restriction]) -> Table:
    """The sizes that a graph does not take."""
    table = _table("restrictions", ["axis", "rule", "reason"])
    for restriction in restrictions:
        table.add_row(restriction.axis, restriction.rule, restriction.reason)
    return table


def facts_table(graph: GraphInspection) -> Table:
    """File, size, precision and operators of a graph."""
    table = _table("", ["", ""], header=False)
    most = sorted(graph.operators.items(), key=lambda item: (-item[1], item[0]))
    operators = ", ".join(f"{name} {count}" for name, count in most[:_MOST_OPERATORS])
    more = f", and {len(most) - _MOST_OPERATORS} more" if len(most) > _MOST_OPERATORS else ""
    table.add_row("file", graph.file)
    table.add_row("size", bytes_text(graph.size_bytes))
    table.add_row("parameters", f"{graph.parameters:,}")
    table.add_row("precision", graph.precision)
    table.add_row("opset", str(graph.opset))
    if graph.producer:
        table.add_row("producer", graph.producer)
    table.add_row("operators", f"{sum(graph.operators.values())}: {operators}{more}")
    if graph.fixes:
        table.add_row("fixes", ", ".join(graph.fixes))
    table.add_row("verification", verification_text(graph.verification))
    return table


def verification_text(verification: Verification | None) -> str:
    """The verification in one line."""
    if verification is None:
        return "none recorded"
    word = "agrees with" if verification.passed else "DIFFERS from"
    return (
        f"{word} {verification.source} on {len(verification.cases)} sets of inputs, "
        f"largest error {verification.max_abs_error:.2e} (relative {verification.max_rel_error:.2e})"
    )


def tasks_table(tasks: Iterable[Task]) -> Table:
    """A row for each task."""
    table = _table("", ["task", "also called", "what it does", "inputs", "example"], narrow=("task",))
    for task in tasks:
        table.add_row(task.name, ", ".join(task.aliases), task.summary, task.kind, task.example)
    return table


def models_table(rows: Iterable[Mapping[str, str]], pairs: int) -> Table:
    """A row for each model type and task that was tried, of so many pairs that there are."""
    rows = list(rows)
    title = f"{len(rows)} of {pairs} pairs of a model type and a task were tried"
    table = _table(title, ["model type", "task", "result", "cause"], narrow=("task", "result"))
    for row in rows:
        table.add_row(row["model_type"], row["task"], row["status"], row["note"])
    return table


def environments_table(statuses: Iterable[Status]) -> Table:
    """A row for each managed environment."""
    table = _table("", ["name", "state", "Python", "size", "purpose", "path"], narrow=("name", "state"))
    for status in statuses:
        size = bytes_text(status.size_bytes) if status.size_bytes else ""
        table.add_row(status.name, status.state.value, status.python or "", size, status.purpose, str(status.path))
    return table


def tuning_table(tuning: Tuning) -> Table:
    """A row for each candidate of `optimize`: size, time, loss."""
    numbers = ("size", "ms", "time", "loss", "largest")
    table = _table(f"Candidates for {tuning.target}, loss at most {tuning.max_loss:.2%}", ["graphs", "precision",
                   *numbers, "agrees", ""], narrow=numbers, right=numbers)  # fmt: skip
    for one in tuning.candidates:
        loss = one.loss
        table.add_row(
            ", ".join(one.components) or "-", one.precision, bytes_text(one.size_bytes) if one.components else "",
            "" if one.milliseconds is None else f"{one.milliseconds:.2f}",
            "" if one.of_base is None else f"{one.of_base:.2f}",
            "" if loss is None else f"{loss.mean:.3%} ±{loss.half_width:.3%}",
            "" if loss is None else f"{loss.largest:.2%}",
            _agrees(loss), "chosen" if one.chosen else one.note or ("best" if one.best else ""),
        )  # fmt: skip
    measured = next((one.loss for one in tuning.candidates if one.loss is not None), None)
    speed = f"Time: at {tuning.sizes}, on {tuning.measured_on}." if tuning.measured_on else "Speed was not measured."
    table.caption = f"{speed} Loss: on {measured.inputs}." if measured is not None else speed
    table.caption_justify = "left"
    return table


def fusions_table(fusions: Mapping[str, Sequence[FusionKind]]) -> Table:
    """A row for each kind of fusion in each graph, and one for each reason why a place was left."""
    table = _table("Fusions", ["graph", "fusion", "places", "not fused", "why"], narrow=("places",),
                   right=("places",))  # fmt: skip
    for name, kinds in fusions.items():
        for kind in kinds:
            reasons: dict[str, list[str]] = {}
            for operator, reason in kind.left.items():
                reasons.setdefault(reason, []).append(operator)
            table.add_row(name, kind.title, str(kind.places), "" if reasons else "-", "")
            for reason, operators in reasons.items():
                more = f" and {len(operators) - 1} more" if len(operators) > 1 else ""
                table.add_row("", "", "", operators[0] + more, reason)
    return table


def _agrees(loss: Loss | None) -> str:
    """The further measures of a loss."""
    if loss is None:
        return ""
    found = [f"KL {loss.divergence:.2g}"] if loss.divergence is not None else []
    return ", ".join(found + ([f"nearest {loss.same_nearest:.1%}"] if loss.same_nearest is not None else []))


def bytes_text(count: int) -> str:
    """A number of bytes with a unit: 91.0 MB, 1.2 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def new_table(title: str, columns: Iterable[str], right: Collection[str] = ()) -> Table:
    """An empty table.

    Args:
        right: columns of numbers, which are never folded.
    """
    return _table(title, columns, right, right=right)


def _table(
    title: str,
    columns: Iterable[str],
    narrow: Collection[str] = (),
    *,
    header: bool = True,
    right: Collection[str] = (*_NUMBERS, *_MEASURED),
) -> Table:
    """An empty table.

    Args:
        narrow: columns that are never folded.
        right: columns of numbers.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE, show_header=header)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right or column.startswith("same ") else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in narrow)
    return table
