"""What the charts of the report show: rows with marks on a logarithmic axis, and parts with their tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxport.artifact.manifest import Component
from onnxport.report.scale import LogScale
from onnxport.report.words import TIMES, family, number_text, shorten, sizes_text
from onnxport.specs import CaseCheck, ModuleError, OutputCheck, TensorSpec, Verification

_ROWS = 48  # of a chart
_MARKS = 24  # of one row
_NAME, _AXES = 38, 46  # characters that fit into a box


@dataclass(frozen=True)
class Mark:
    """One dot.

    Attributes:
        at: percent from the left.
        kind: "good", "bad", "source", "plain".
        title: what a pointer shows, and a screen reader reads.
    """

    at: float
    kind: str
    title: str


@dataclass(frozen=True)
class Row:
    """One line of a chart."""

    label: str
    detail: str
    value: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """Rows over one axis.

    Attributes:
        limit: percent from the left of the line that must not be crossed; None where there is none.
        omitted: rows that are not shown.
        summary: the chart in one sentence, for those who do not see it.
    """

    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    limit: float | None
    omitted: int
    summary: str
    height: int = 34  # pixels of a row

    @property
    def total_height(self) -> int:
        return self.height * len(self.rows) + 26


def error_chart(verification: Verification) -> Chart | None:
    """Errors as shares of their tolerances: a row for each case, a mark for each output. None without outputs."""
    cases = [case for case in verification.cases if case.outputs]
    shares = [_share(output) for case in cases for output in case.outputs]
    if not shares:
        return None
    scale = LogScale.around(shares, low=-3, high=1, least=-6)
    rows = tuple(
        Row(case.name, sizes_text(case.sizes), _worst_text(case), tuple(_case_marks(case, scale)))
        for case in cases[:_ROWS]
    )
    beyond = sum(share > 1 or math.isnan(share) for share in shares)
    summary = (
        f"{len(cases)} cases; the largest error is {number_text(max(shares))} times its tolerance; "
        f"{beyond} of {len(shares)} outputs are beyond it."
    )
    return Chart(rows, tuple(scale.ticks()), scale.place(1.0), len(cases) - len(rows), summary)


def module_chart(modules: Sequence[ModuleError], label: str, *, against_source: bool = False) -> Chart | None:
    """Relative errors after each module, in the order in which they run; around the largest step where they are many.

    Args:
        label: what they are errors of, for the summary.
        against_source: of a graph that should be equal: errors after the largest step are marked as bad.
    """
    if not modules:
        return None
    steps = [modules[i].error / max(modules[i - 1].error, 1e-9) if i else 0.0 for i in range(len(modules))]
    at = steps.index(max(steps))
    start = max(0, min(at - _ROWS // 3, len(modules) - _ROWS)) if len(modules) > _ROWS else 0
    shown = modules[start : start + _ROWS]
    scale = LogScale.around([module.error for module in shown], low=-7, high=0)
    before = modules[at - 1].error if at else 0.0
    # Between what was before the step and after it, as orders of magnitude.
    limit = math.sqrt(max(before, 1e-9) * max(modules[at].error, 1e-6))

    def kind(place: int) -> str:
        return "bad" if against_source and place >= at and modules[place].error > limit else "plain"

    rows = tuple(
        Row(
            shorten(module.module or "the model itself", 64), module.kind, number_text(module.error),
            (Mark(scale.place(module.error), kind(place), f"{module.module}: {number_text(module.error)}"),),
        )
        for place, module in enumerate(shown, start)
    )  # fmt: skip
    summary = f"{label}: the error grows most at {modules[at].module or 'the model itself'}."
    return Chart(rows, tuple(scale.ticks()), None, len(modules) - len(shown), summary)


def _case_marks(case: CaseCheck, scale: LogScale) -> Iterable[Mark]:
    worst = sorted(case.outputs, key=_share, reverse=True)[:_MARKS]
    for output in worst:
        if output.source_error is not None and output.tolerance:
            share = output.source_error / output.tolerance
            yield Mark(scale.place(share), "source", f"{output.name}: source {number_text(output.source_error)}")
    for output in reversed(worst):
        title = f"{output.name}: {number_text(output.judged_error)}, tolerance {number_text(output.tolerance)}"
        yield Mark(scale.place(_share(output)), "good" if output.ok else "bad", title)


def _share(output: OutputCheck) -> float:
    if output.tolerance:
        return output.judged_error / output.tolerance
    return 0.0 if output.judged_error == 0 else math.inf


def _worst_text(case: CaseCheck) -> str:
    return f"{number_text(max(map(_share, case.outputs)))}{TIMES}"


@dataclass(frozen=True)
class Port:
    """An input or output of a part, or those of all layers together.

    Attributes:
        count: how many tensors it stands for.
        origin: the part that gives this input; "" for one that the user gives.
    """

    name: str
    axes: str
    full: str
    count: int = 1
    origin: str = ""


@dataclass(frozen=True)
class PartPicture:
    """One part with what it takes and gives; positions in pixels."""

    name: str
    detail: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    row: int = 40
    box: int = 64
    gap: int = 26

    @property
    def box_top(self) -> int:
        return self.row * len(self.inputs) + self.gap

    @property
    def outputs_top(self) -> int:
        return self.box_top + self.box + self.gap

    @property
    def total_height(self) -> int:
        return self.outputs_top + self.row * len(self.outputs)

    @property
    def wide_height(self) -> int:
        """Of the picture with inputs on the left and outputs on the right."""
        return max(self.row * max(len(self.inputs), len(self.outputs), 1), self.box)

    def port_top(self, count: int, index: int) -> float:
        """Where port `index` of `count` begins in that picture: the ports are centred."""
        return (self.wide_height - self.row * count) / 2 + self.row * index + 2


def part_pictures(components: Sequence[Component], details: Sequence[str]) -> list[PartPicture]:
    """The parts in the order in which they run; inputs that an earlier part gives are marked.

    Args:
        details: a short text for each.
    """
    given: dict[str, str] = {}
    pictures = []
    for component, detail in zip(components, details, strict=True):
        inputs = tuple(_ports(component.inputs, given))
        pictures.append(PartPicture(shorten(component.name, 34), detail, inputs, tuple(_ports(component.outputs, {}))))
        for spec in component.outputs:
            given.setdefault(_linked(spec.name), component.name)
    return pictures


def _linked(name: str) -> str:
    """What an output is called where a later part takes it."""
    if name.startswith("present."):  # cross-attention states of an encoder
        return name.replace("present.", "past_key_values.", 1)
    return {"last_hidden_state": "encoder_hidden_states"}.get(name, name)


def _ports(specs: Sequence[TensorSpec], given: dict[str, str]) -> Iterable[Port]:
    groups: dict[tuple[str, str], list[TensorSpec]] = {}
    for spec in specs:
        groups.setdefault((family(spec.name), _axes(spec)), []).append(spec)
    for (name, axes), members in groups.items():
        shown = name if len(members) > 1 else members[0].name
        count = f" {TIMES} {len(members)}" if len(members) > 1 else ""
        yield Port(
            shorten(shown, _NAME - len(count)) + count, shorten(axes, _AXES), f"{shown}{count}: {axes}", len(members),
            given.get(members[0].name, ""),
        )  # fmt: skip


def _axes(spec: TensorSpec) -> str:
    return f"{spec.dtype} ({', '.join(map(str, spec.axes))})" if spec.axes else f"{spec.dtype} scalar"
