"""What `optimize` with a budget measured: the candidates, how fast they are, and what they lose."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Loss:
    """How much of a graph's answers a variant of it loses.

    Attributes:
        measure: "cosine": 1 - cosine similarity of each row; "decisions": share of labels, tokens or spans that differ.
        mean: over rows or decisions.
        half_width: of the 95 % interval of the mean; infinite for one row.
        largest: of a row.
        count: rows or decisions.
        inputs: what they were measured on: "211 texts".
        divergence: Kullback-Leibler divergence of the scores in nats, mean; None where there are none.
        same_nearest: share of rows whose nearest other row is the same one; None where that was not compared.
    """

    measure: str
    mean: float
    half_width: float
    largest: float
    count: int
    inputs: str
    divergence: float | None = None
    same_nearest: float | None = None


@dataclass(frozen=True)
class Calibration:
    """What the scales of activations were measured on.

    Attributes:
        method: "minmax", "percentile" or "entropy".
        count: rows.
        inputs: what they were chosen from, in words: "211 texts".
        smoothing: how much of the outliers of activations was moved into weights, 0 to 1; 0 if nothing.
        float_activations: names of those that were not rounded, because they would lose too much; the most sensitive
            first.
    """

    method: str
    count: int
    inputs: str
    smoothing: float = 0.0
    float_activations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A form of the folder's graphs.

    Attributes:
        components: its graphs; none if it could not be made.
        precision: "float32", "float16", "int8", ...
        size_bytes: of its graphs with their data files.
        milliseconds: median of a call at the first of the measured sizes; None where it was not measured.
        of_base: time as a share of that of the converted graphs, geometric mean over all sizes.
        loss: None where it was not measured.
        note: why it is no candidate; "" for those that are.
        best: no other candidate is both faster and loses less.
        chosen: it is what was published.
    """

    components: tuple[str, ...]
    precision: str
    size_bytes: int = 0
    milliseconds: float | None = None
    of_base: float | None = None
    loss: Loss | None = None
    note: str = ""
    best: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Tuning:
    """One run of `optimize` with a budget.

    Attributes:
        target: "cpu", "cuda", "webgpu" or "portable".
        max_loss: the budget.
        measured_on: processor and number of threads, in words; "" if no speed was measured.
        sizes: at which speed was measured, in words.
        candidates: the converted graphs first.
    """

    target: str
    max_loss: float
    measured_on: str
    sizes: str
    candidates: tuple[Candidate, ...] = field(default=())
