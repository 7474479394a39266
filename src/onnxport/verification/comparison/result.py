"""What a comparison of two folders or graphs finds. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Change:
    """Something that both sides have, with two values; "" where a side lacks it.

    Attributes:
        kind: "axes", "input", "output", "restriction", "operator", "file", "config.json", "version" ...
        matters: whether it makes the two sides different for a user.
    """

    kind: str
    name: str
    a: str
    b: str
    matters: bool = True


@dataclass(frozen=True)
class WeightChange:
    """One weight that is not the same on both sides.

    Attributes:
        how: "changed", "quantized", "renamed", "transposed", "added" or "removed".
        error: max |b - a| / max |a|; of a quantized weight after dequantization; None where there is no such number.
        other: its name on the other side, where that is another one.
        layer: path of the module that reads it, as far as names of weights tell.
    """

    name: str
    how: str
    shape: tuple[int, ...]
    dtype: str
    error: float | None = None
    other: str = ""
    layer: str = ""


@dataclass(frozen=True)
class OutputComparison:
    """One output of one case; errors as in `specs.OutputCheck`.

    Attributes:
        cosine: of the two outputs as vectors; None where one is all zeros or has no finite numbers.
    """

    name: str
    shape: tuple[int, ...]
    max_abs_error: float
    max_rel_error: float
    tolerance: float
    cosine: float | None
    ok: bool


@dataclass(frozen=True)
class CaseComparison:
    """Both graphs on one set of inputs.

    Attributes:
        seed: of the random inputs.
        error: why they could not be compared.
    """

    sizes: dict[str, int]
    seed: int
    outputs: tuple[OutputComparison, ...]
    decision: str | None = None
    decision_agreement: float | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and all(output.ok for output in self.outputs)


@dataclass(frozen=True)
class LayerComparison:
    """A value that both graphs have.

    Attributes:
        layer: path of the module in the source, as far as names of weights tell.
        error: max |b - a| / max |a|.
        jump: by how much the error is larger than that of what the node reads.
        cosine: as for outputs.
    """

    value: str
    operator: str
    layer: str
    shape: tuple[int, ...]
    error: float
    jump: float
    cosine: float | None


@dataclass(frozen=True)
class GraphComparison:
    """Two graphs.

    Attributes:
        a, b: their names.
        precision: the coarser of both; it decides the tolerance.
        changes: in inputs, outputs, axes and restrictions.
        operators: operator -> its number in a and in b, where these differ.
        same_weights: number of weights that are equal, and their elements.
        layers: in the order in which they run.
    """

    a: str
    b: str
    precision: str
    changes: tuple[Change, ...]
    operators: dict[str, tuple[int, int]]
    same_weights: int
    same_elements: int
    weights: tuple[WeightChange, ...]
    cases: tuple[CaseComparison, ...]
    layers: tuple[LayerComparison, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Same inputs and outputs, numbers within the tolerance, and no weight that was changed."""
        kept = not any(weight.how == "changed" for weight in self.weights)
        return kept and not any(change.matters for change in self.changes) and all(case.ok for case in self.cases)


@dataclass(frozen=True)
class Comparison:
    """Two folders or graph files.

    Attributes:
        changes: in what the folders are and in the files beside the graphs.
        graphs: pairs of graphs.
        equal: nothing that matters to a user is different.
    """

    a: str
    b: str
    equal: bool
    changes: tuple[Change, ...] = ()
    graphs: tuple[GraphComparison, ...] = ()
    notes: tuple[str, ...] = field(default=())
