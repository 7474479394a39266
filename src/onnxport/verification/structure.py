"""Which outputs move when an input is changed, row by row and position by position: the same in source and graph.

One batch holds a row for each change, so that all of them cost one run. Another batch of the same shapes holds the
unchanged row as often. Where an output of the source is the same in both, bit by bit, no path leads there from what
was changed: tokens do not see those after them, nor padding, nor other rows. Where it is not, the graph must not be
without that input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from onnxport.dummy_inputs.base import Arrays
from onnxport.export.signature import Signature
from onnxport.sources.base import Source
from onnxport.specs import TensorSpec
from onnxport.tensor_names import is_past
from onnxport.verification.case import Case, elements
from onnxport.verification.plan import rows_of
from onnxport.verification.rounding import measure_rounding
from onnxport.verification.tolerance import UNIT, scale_of

NAME = "every input changed"
_SEGMENTS = (8, 4, 2, 1)  # of an axis that is changed part by part
_TOKENS = 8
_SEED = 31
_ELEMENTS = 256
_EXACT, _CLEARLY = 4.0, 4.0


@dataclass(frozen=True)
class Change:
    """A batch in which something was changed.

    Attributes:
        case: inputs, and outputs of the source.
        labels: what was changed in each row, "" for nothing; a single label for a change of all rows.
        judged: whether values are compared too.
    """

    case: Case
    labels: tuple[str, ...]
    judged: bool = True


@dataclass(frozen=True)
class Structure:
    """What moves the outputs of a source.

    Attributes:
        base: before the changes.
        changes: batches of the same shapes.
    """

    base: Case
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class _Altered:
    """A row with a change."""

    label: str
    arrays: Arrays


def record_structure(source: Source, signature: Signature, most: int) -> Structure | None:
    """Run the source on changed inputs.

    Args:
        most: elements of inputs that are worth a run.

    Returns:
        None where the source refuses such inputs.
    """
    one, others = _rows(source, signature)
    rows = rows_of(signature.generator, signature)
    in_rows = len(rows) == 1 and all(spec.axes and spec.axes[0] == rows[0] for spec in signature.inputs)
    altered = _alterations(one, others, signature, max(most, _ELEMENTS) if in_rows else 0)
    if not altered:
        return None
    if in_rows:
        return _in_rows(source, signature, one, others, altered)
    base = _case("before changes", signature, one, source.run(one))
    changes = []
    for change in altered:
        with suppress(Exception):  # the source refuses it
            case = _case(change.label, signature, change.arrays, source.run(change.arrays))
            changes.append(Change(case, (change.label,), judged=False))
    return Structure(base, tuple(changes)) if changes else None


def without_rounding(structure: Structure) -> Structure:
    """The same, for a graph of another precision than the source's."""
    changes = tuple(replace(change, case=replace(change.case, rounding=None)) for change in structure.changes)
    return replace(structure, changes=changes)


def differences(
    structure: Structure, change: Change, base: Arrays, changed: Arrays, specs: Sequence[TensorSpec]
) -> list[str]:
    """In words, where a change moves outputs of the graph that it does not move in the source, or the other way round.

    Args:
        base, changed: outputs of the graph for both batches.
        specs: outputs with their axes.
    """
    found = []
    for spec in specs:
        name = spec.name
        if name not in change.case.outputs or any(
            name not in one or one[name].shape != structure.base.outputs[name].shape for one in (base, changed)
        ):
            continue  # an output that is missing or has another shape is the finding of every case
        noise = _noise(structure, spec)
        source = _moved(structure.base.outputs[name], change.case.outputs[name], spec)
        graph = _moved(base[name], changed[name], spec)
        for places, words in (
            ((source == 0) & (graph > noise), "moves the graph's {} by {:.2g}{}, and the source's not at all"),
            ((source > _CLEARLY * noise) & (graph == 0), "does not move the graph's {}, and the source's by {:.2g}{}"),
        ):
            if places.any():
                place = tuple(int(index) for index in np.argwhere(places)[0])
                size = float(max(source[place], graph[place]))
                where = _place(spec, place)
                found.append(f"{_label(change, place)} {words.format(name, size, where)}")
    return found


def _noise(structure: Structure, spec: TensorSpec) -> float:
    """What is no movement of an output.

    Batches of one shape are computed alike, bit by bit. But whoever mixes experts computes a row a little otherwise
    beside other rows: then it is what rounding does.
    """
    output = structure.base.outputs[spec.name]
    if output.dtype.kind != "f":
        return 0.5
    exact, rounding = _EXACT * UNIT * scale_of(output), structure.changes[0].case.rounding
    measured = rounding.noise.get(spec.name, 0.0) if rounding is not None else 0.0
    for change in structure.changes:
        moved = _moved(output, change.case.outputs[spec.name], spec)
        if moved.shape[:1] == (len(change.labels),):
            beside = moved[[not label for label in change.labels]]
            if ((beside > 0) & (beside <= measured)).any():
                return max(exact, measured)
    return exact


def _in_rows(
    source: Source, signature: Signature, one: Arrays, others: Sequence[Arrays], altered: list[_Altered]
) -> Structure | None:
    """The changes as rows of one batch; and a batch in which only the last row is another."""
    try:
        run = source.measured(_stacked([one, *(change.arrays for change in altered)]))
    except Exception:  # the source refuses some change: which one?
        altered = [change for change in altered if _runs(source, change.arrays)]
        if not altered:
            return None
        try:
            run = source.measured(_stacked([one, *(change.arrays for change in altered)]))
        except Exception:
            return None
    count = len(altered) + 1
    inputs = _stacked([one, *(change.arrays for change in altered)])
    unchanged, last = _stacked([one] * count), _stacked([*[one] * (count - 1), others[0]])
    rounding = measure_rounding(run) if getattr(source, "precision", "float32") == "float32" else None
    changed = replace(_case(NAME, signature, inputs, run.outputs), rounding=rounding)
    labels = ("", *(change.label for change in altered))
    changes = [Change(changed, labels)]
    with suppress(Exception):
        other = _case(f"{NAME}, one row", signature, last, source.run(last))
        changes.append(Change(other, (*[""] * (count - 1), "another last row"), judged=False))
    return Structure(_case("before changes", signature, unchanged, source.run(unchanged)), tuple(changes))


def _case(name: str, signature: Signature, inputs: Arrays, outputs: Arrays) -> Case:
    return Case(name, signature.sizes_of(inputs), inputs, outputs)


def _runs(source: Source, arrays: Arrays) -> bool:
    try:
        source.run(arrays)
    except Exception:  # models refuse inputs with any exception
        return False
    return True


def _rows(source: Source, signature: Signature) -> tuple[Arrays, list[Arrays]]:
    """One row, and other contents of the same sizes; of few tokens if the source takes so few."""
    generator = signature.generator
    base = {dim.name: dim.base_size for dim in generator.dims} | dict.fromkeys(rows_of(generator, signature), 1)
    few = base | {
        name: _TOKENS for name in signature.accepted if name.endswith("sequence_length") and base[name] > _TOKENS
    }
    for sizes in (few, base):
        try:
            made = [generator.make(sizes, seed=_SEED + number) for number in range(4)]
            source.run(made[0])
        except Exception:
            continue
        if len({tuple(v.shape for v in arrays.values()) for arrays in made}) == 1:
            return made[0], made[1:]
    return signature.sample, []


def _alterations(one: Arrays, others: Sequence[Arrays], signature: Signature, most: int) -> list[_Altered]:
    """Every input changed: part by part along its free axes, in as many parts as are worth it; and as a whole."""
    found: list[_Altered] = []
    for count in _SEGMENTS:
        found = list(_altered(one, others, signature, count if most else 1))
        if not most or (len(found) + 1) * elements(one) <= most:
            break
    return found


def _altered(one: Arrays, others: Sequence[Arrays], signature: Signature, count: int) -> Iterator[_Altered]:
    specs = {spec.name: spec for spec in signature.inputs}
    past = [name for name in one if is_past(name)]
    for group in ([name] for name in one if not is_past(name)):
        yield from _of_group(one, others, group, specs, count)
    if past:
        yield from _of_group(one, others, past, specs, count)
        for name in past:
            yield from _of_group(one, others, [name], specs, 1)


def _of_group(
    one: Arrays, others: Sequence[Arrays], group: list[str], specs: dict[str, TensorSpec], count: int
) -> Iterator[_Altered]:
    """Inputs that are changed together: in parts along the free axes of the first that has some."""
    values = {name: _other_values(name, one[name], [arrays[name] for arrays in others]) for name in group}
    label = group[0] if len(group) == 1 else "the past"
    axes = [axis for axis, size in enumerate(specs[group[0]].axes) if axis > 0 and isinstance(size, str)]
    for axis in axes:
        length = one[group[0]].shape[axis]
        for part in np.array_split(np.arange(length), min(count, length)) if length else ():
            changed = dict(one)
            for name in group:
                if one[name].ndim > axis and one[name].shape[axis] == length:
                    changed[name] = _with_part(one[name], values[name], axis, part)
            where = f"{part[0]}" if len(part) == 1 else f"{part[0]} to {part[-1]}"
            if _differ(one, changed) and _leaves_something(changed, group):
                yield _Altered(f"{label} at {where}", changed)
    if not axes:
        changed = one | values
        if _differ(one, changed):
            yield _Altered(label, changed)


def _other_values(name: str, value: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Other values that an input can have at each place, as far as they are known."""
    lower = name.lower()
    if value.dtype.kind == "b":
        return ~value
    if ("mask" in lower or "type" in lower) and np.isin(value, (0, 1)).all():
        return np.asarray(1 - value, value.dtype)
    if lower.endswith("position_ids"):
        return value + 1
    changed = value.copy()
    for other in others:
        changed = np.where(changed == value, other, changed)
    if value.ndim > 1:  # every row begins and ends with the same token: take that beside it
        changed = np.where(changed == value, np.roll(value, 1, axis=1), changed)
    if value.dtype.kind == "f":
        spread = float(np.std(value.astype(np.float64))) or 1.0
        changed = np.where(changed == value, (value + spread).astype(value.dtype), changed)
    return np.ascontiguousarray(changed)


def _with_part(value: np.ndarray, other: np.ndarray, axis: int, part: np.ndarray) -> np.ndarray:
    changed = value.copy()
    place = (slice(None),) * axis + (part,)
    changed[place] = other[place]
    return changed


def _differ(one: Arrays, changed: Arrays) -> bool:
    return any(not np.array_equal(one[name], value) for name, value in changed.items())


def _leaves_something(changed: Arrays, group: Sequence[str]) -> bool:
    """Whether a mask still shows something of its row."""
    return all(changed[name].any() for name in group if "mask" in name.lower())


def _stacked(rows: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _moved(before: np.ndarray, after: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Largest change at each place of the free axes."""
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(after.astype(np.float64) - before.astype(np.float64))
    far = np.where((before == after) | (np.isnan(before) & np.isnan(after)), 0, np.nan_to_num(far, nan=1e30))
    fixed = tuple(axis for axis, size in enumerate(spec.axes) if not isinstance(size, str) and axis < far.ndim)
    if not far.size:
        return np.zeros([size for axis, size in enumerate(far.shape) if axis not in fixed])
    return np.asarray(far.max(axis=fixed))


def _label(change: Change, place: tuple[int, ...]) -> str:
    if len(change.labels) == 1 or not place:
        return change.labels[0] if len(change.labels) == 1 else "a change"
    own = change.labels[place[0]] if place[0] < len(change.labels) else ""
    if own:
        return f"a change of {own}"
    return f"a change in other rows ({next(label for label in change.labels if label)})"


def _place(spec: TensorSpec, place: tuple[int, ...]) -> str:
    named = [axis for axis in spec.axes if isinstance(axis, str)]
    rest = [f"{axis} {index}" for axis, index in list(zip(named, place, strict=False))[1:]]
    return f" at {', '.join(rest)}" if rest else ""
