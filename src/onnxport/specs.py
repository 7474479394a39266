"""Tensors with their axes, restrictions of axes, and the record of a verification. Pure data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: tensor name in the graph.
        dtype: numpy name of the element type ("int64", "float32", "bool").
        axes: one entry per axis: an int for a static axis, a name ("batch_size") for a dynamic
            one, or for outputs an expression of input axes ("height // 16 * width // 16 + 1").
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...]


class Limit(StrEnum):
    """What a restriction asks of the size of an axis; the value is how it is written."""

    FIXED = "fixed at"
    MULTIPLE = "multiple of"
    AT_MOST = "at most"
    AT_LEAST = "at least"
    EQUAL = "equal to"
    NOTE = "note"  # no condition on the size: the operand is a text for people


# Restrictions that still hold when the axes are inferred again; bounds are found anew.
LASTING_LIMITS = (Limit.FIXED, Limit.MULTIPLE, Limit.EQUAL)
_RULE = re.compile(r"(fixed at|multiple of|at most|at least) ([0-9]+)|(equal to) (\w+)")


@dataclass(frozen=True)
class Restriction:
    """An axis that is not free, and why (what the model, processor or exporter said).

    `Restriction("height", Limit.MULTIPLE, 32, "the patches").rule` is "multiple of 32".

    Attributes:
        axis: its name.
        limit: the kind of condition.
        operand: a size; for `Limit.EQUAL` the name of the other axis, for `Limit.NOTE` the text.
        reason: why, in one line.
    """

    axis: str
    limit: Limit
    operand: int | str
    reason: str

    @property
    def rule(self) -> str:
        """The condition as text: "fixed at 224", "multiple of 32", "equal to sequence_length"."""
        return str(self.operand) if self.limit is Limit.NOTE else f"{self.limit} {self.operand}"

    @classmethod
    def from_rule(cls, axis: str, rule: str, reason: str) -> Restriction:
        """The inverse of `rule`; a text in no known form is a note."""
        match = _RULE.fullmatch(rule)
        if match is None:
            return cls(axis, Limit.NOTE, rule, reason)
        if match[3]:
            return cls(axis, Limit.EQUAL, match[4], reason)
        return cls(axis, Limit(match[1]), int(match[2]), reason)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether `sizes` (axis name -> size) meet the condition; what they do not say is taken to be right."""
        size = sizes.get(self.axis)
        bound = self.operand if isinstance(self.operand, int) else sizes.get(self.operand)
        if size is None or bound is None or self.limit is Limit.NOTE:
            return True
        match self.limit:
            case Limit.MULTIPLE:
                return bound > 0 and size % bound == 0
            case Limit.AT_MOST:
                return size <= bound
            case Limit.AT_LEAST:
                return size >= bound
        return size == bound

    def nearest(self, size: int) -> int:
        """`size`, or the nearest one that meets the condition alone; `size` where another axis decides."""
        if not isinstance(self.operand, int) or self.operand < 1:
            return size
        match self.limit:
            case Limit.FIXED:
                return self.operand
            case Limit.MULTIPLE:
                return max(size // self.operand, 1) * self.operand
            case Limit.AT_MOST:
                return min(size, self.operand)
            case Limit.AT_LEAST:
                return max(size, self.operand)
        return size


@dataclass(frozen=True)
class OutputCheck:
    """Source against ONNX for one output of one case.

    Attributes:
        max_abs_error: max |onnx - source|.
        max_rel_error: max_abs_error / scale.
        scale: max |source|.
        tolerance: the output passes if `judged_error` is not above it.
        method: how the tolerance was found. "float64": from the source's own distance from float64; "perturbation":
            from how far the source's outputs move when its numbers are moved by one unit in the last place; "fixed":
            a fixed part of the scale.
        source_error: "float64": max |source - source in float64|; "perturbation": by how much the source's outputs
            move. None where that was not measured, and in folders of onnxport 0.1.
        graph_error: "float64": max |onnx - source in float64|; else None.
        cosine: of graphs with rounded weights or activations, the smallest cosine similarity of a row of the graph's
            output with that of the source's; None for other graphs, and for rows of few numbers.
    """

    name: str
    shape: tuple[int, ...]
    max_abs_error: float
    max_rel_error: float
    scale: float
    tolerance: float
    ok: bool
    method: str = "fixed"
    source_error: float | None = None
    graph_error: float | None = None
    cosine: float | None = None

    @property
    def judged_error(self) -> float:
        """What is compared with the tolerance."""
        return self.max_abs_error if self.graph_error is None else self.graph_error


@dataclass(frozen=True)
class CaseCheck:
    """One set of input sizes at which source and ONNX were compared."""

    name: str  # "traced", "batch of one", "longer, padded rows"
    sizes: dict[str, int]  # input axis -> value
    outputs: tuple[OutputCheck, ...]
    decision: str | None = None  # what a user sees: "label", "token", "span", "box", "class map"
    decision_agreement: float | None = None  # share of decisions that are equal, 0 to 1
    error: str | None = None  # why the case failed, where no output is beyond its tolerance
    ok: bool = True
    # Decisions that differ where the source's two candidates are within twice the tolerance: either may win.
    near_ties: int = 0
    # Rows that agree with the source once a decision inside the model that rounding turns (the choice of an expert, a
    # threshold) is taken the other way.
    inner_ties: int = 0


@dataclass(frozen=True)
class Distance:
    """How far a graph of rounded weights is from the graph that it was made from; for information, nothing is judged.

    Attributes:
        source: "the graph model.onnx (float32)".
        max_abs_error, max_rel_error: as in `OutputCheck`, over all cases.
        decision: what a user sees, as in `CaseCheck`; None where the task has none.
        agreement: share of these decisions that are equal, 0 to 1.
        greedy_agreement: of a decoder, the share of greedily written tokens that are equal up to the first that
            is not.
    """

    source: str
    max_abs_error: float
    max_rel_error: float
    decision: str | None = None
    agreement: float | None = None
    greedy_agreement: float | None = None


@dataclass(frozen=True)
class ComparedSizes:
    """The sizes of an input axis between which numbers were compared; beyond them nothing is known.

    Attributes:
        axis: its name.
        smallest, largest: of the cases that passed.
    """

    axis: str
    smallest: int
    largest: int


def compared_sizes(cases: Iterable[CaseCheck]) -> tuple[ComparedSizes, ...]:
    """Of each axis, over the cases that passed.

    >>> compared_sizes([CaseCheck("a", {"rows": 1}, ()), CaseCheck("b", {"rows": 5}, ())])
    (ComparedSizes(axis='rows', smallest=1, largest=5),)
    """
    sizes: dict[str, list[int]] = {}
    for case in cases:
        for axis, size in case.sizes.items() if case.ok else ():
            sizes.setdefault(axis, []).append(size)
    return tuple(ComparedSizes(axis, min(found), max(found)) for axis, found in sizes.items())


@dataclass(frozen=True)
class ModuleError:
    """How far a graph is from the source after one module.

    Attributes:
        module: path in the source model: "bert.encoder.layer.0.attention.self"; the model itself is "".
        kind: its class: "BertSelfAttention".
        error: max |graph - source| / max |source| of its output.
    """

    module: str
    kind: str
    error: float


@dataclass(frozen=True)
class Difference:
    """The first place where a graph computes something else than its source.

    Errors are max |graph - source| / max |source|.

    Attributes:
        case: name of the case that was searched.
        sizes: of the inputs in that case.
        module, kind: path and class of the source's module; empty where nothing could be matched.
        node, operator: of the graph.
        value: what the node gives.
        shape: of `value` in that case.
        error_before: largest error of what the node reads.
        error_after: of `value`, or of the output of `module`.
        fixes: registered fixes that made or changed the node.
        note: what else there is to say, or why nothing was found.
        modules: error after each module that has a counterpart in the graph, in the order in which they run.
    """

    case: str
    sizes: dict[str, int]
    module: str = ""
    kind: str = ""
    node: str = ""
    operator: str = ""
    value: str = ""
    shape: tuple[int, ...] = ()
    error_before: float = 0.0
    error_after: float = 0.0
    fixes: tuple[str, ...] = ()
    note: str = ""
    modules: tuple[ModuleError, ...] = ()


@dataclass(frozen=True)
class Verification:
    """All cases of one graph against its source.

    Attributes:
        level: "quick", "standard" or "thorough"; "" in folders of onnxport 0.1, and for graphs that were compared with
            another graph.
        compared: for each input axis the sizes between which numbers were compared.
    """

    passed: bool
    source: str  # "torch 2.13.0" ...
    runtime: str  # "onnxruntime 1.32.0 (CPUExecutionProvider)"
    absolute_tolerance: float
    relative_tolerance: float
    cases: tuple[CaseCheck, ...]
    distance: Distance | None = None  # of rounded weights
    level: str = ""
    compared: tuple[ComparedSizes, ...] = ()
    difference: Difference | None = None  # where it begins to differ, if it does and was searched for

    @property
    def compared_text(self) -> str:
        """Between which sizes numbers were compared, as a sentence; empty where that is not recorded."""
        sizes = [f"{c.axis} {c.smallest} to {c.largest}" for c in self.compared]
        return f"Compared at {', '.join(sizes)}. Other sizes are not verified." if sizes else ""

    @property
    def limits_text(self) -> str:
        """The limits of a graph with rounded numbers, as a sentence; empty for others."""
        found = [o.cosine for c in self.cases for o in c.outputs if o.cosine is not None]
        if not found:
            return ""
        return (
            f"Limits: each number within {self.absolute_tolerance:g} + {self.relative_tolerance:.0%} of the largest; "
            f"cosine similarity of each row at least {1 - self.relative_tolerance:g} (smallest: {min(found):.4f}); "
            "decisions equal, unless the source's lead is within twice the tolerance."
        )

    @property
    def max_abs_error(self) -> float:
        return max((o.max_abs_error for c in self.cases for o in c.outputs), default=float("nan"))

    @property
    def max_rel_error(self) -> float:
        return max((o.max_rel_error for c in self.cases for o in c.outputs), default=float("nan"))
