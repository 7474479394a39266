"""The inputs on which source and graph are compared, and the source's outputs for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from onnxport.dummy_inputs.base import Arrays, Sizes
from onnxport.dummy_inputs.content import extremes, far_contents, shifted_positions, special_contents
from onnxport.errors import CheckpointError, ExportError
from onnxport.export.signature import Signature
from onnxport.sources.base import Source
from onnxport.specs import Limit, Restriction
from onnxport.system.library_errors import first_line
from onnxport.verification.case import Case, elements, past_bytes
from onnxport.verification.level import Budget, Level, budget_of
from onnxport.verification.modes import limit_by_mode
from onnxport.verification.plan import Planned, basic_plan, further_plan, rows_of
from onnxport.verification.repeatable import is_stable, require_repeatable
from onnxport.verification.rounding import measure_rounding, with_shared_noise
from onnxport.verification.structure import Change, Structure, record_structure
from onnxport.verification.thresholds import thresholds

_LEAST_CASES = 4  # the traced sizes and three others


@dataclass(frozen=True)
class Recorded:
    """What a source made of all inputs.

    Attributes:
        structure: how its outputs move; None where it refuses such inputs.
        restrictions: found on the way: a declared limit that the source does not reach.
    """

    cases: list[Case]
    structure: Structure | None
    restrictions: tuple[Restriction, ...] = ()


@dataclass
class _Run:
    """One source while it is recorded."""

    source: Source
    signature: Signature
    cases: list[Case] = field(default_factory=list)
    changed: list[tuple[str, ...]] = field(default_factory=list)  # by each case, in the model's state
    restrictions: list[Restriction] = field(default_factory=list)
    spent: int = 0  # elements
    seconds: float = 0.0
    refusal: Exception | None = None

    def add(self, name: str, inputs: Arrays, limit: Restriction | None = None, *, far: bool = False) -> Case:
        """Run the source, and measure its rounding.

        Raises:
            Exception: it refuses; of any type.
        """
        started = time.perf_counter()
        run = self.source.measured(inputs)
        in_float32 = getattr(self.source, "precision", "float32") == "float32"
        rounding = measure_rounding(run) if in_float32 else None
        sizes = self.signature.sizes_of(inputs)
        self.cases.append(Case(name, sizes, inputs, run.outputs, rounding, limit, far))
        self.changed.append(run.changed)
        self.spent += elements(inputs)
        self.seconds += time.perf_counter() - started
        return self.cases[-1]


def record(source: Source, signature: Signature, level: Level = Level.STANDARD) -> Recorded:
    """Run the source at the traced sizes and at others that were not traced.

    Args:
        level: how many others.

    Raises:
        ExportError: fewer than three sizes beside the traced ones could be run, the source's own outputs are not
            finite anywhere, or it does not give the same outputs for the same inputs.
    """
    run = _Run(source, signature)
    with source.weights_kept():
        _basic(run)
        require_repeatable(source, run.cases[0])
        structure = record_structure(source, signature, run.spent // 2) if run.cases[0].inputs else None
        if level is not Level.QUICK:
            _further(run, level, budget_of(level))
        run.cases = limit_by_mode(source, signature, run.cases, run.changed)
    if not any(np.isfinite(value).any() for case in run.cases for value in case.outputs.values()):
        raise ExportError(f"{source.architecture} gives no finite number itself.")
    return _with_noise(run, structure)


def _basic(run: _Run) -> None:
    """The cases that every verification has."""
    generator = run.signature.generator
    for number, planned in enumerate(basic_plan(generator, run.signature)):
        try:
            run.add(planned.name, generator.make(planned.sizes, seed=number, padded=planned.padded))
        except CheckpointError:  # a weight file that cannot be read is no refusal
            raise
        except Exception as error:  # models refuse sizes with any exception
            run.refusal = error
            if planned.needed:
                raise ExportError(
                    f"{run.source.architecture} does not run at {planned.name}: {first_line(error)}."
                ) from error
    if len(run.cases) < _LEAST_CASES:
        raise ExportError(
            f"{run.source.architecture} ran at {len(run.cases)} of the sizes planned for verification, "
            f"{_LEAST_CASES} are needed: {first_line(run.refusal)}."
        )


def _further(run: _Run, level: Level, budget: Budget) -> None:
    """Cases at the ends of the axes, at thresholds and with unusual content, as far as the budget goes."""
    signature, generator = run.signature, run.signature.generator
    known = {tuple(sorted(case.sizes.items())) for case in run.cases}
    usual = _smallest(run.cases)
    allowed = max(run.spent * budget.elements, budget.flops / max(run.source.parameters, 1))
    a_second = run.spent / max(run.seconds, 1e-3)
    start, stop = run.spent, run.seconds + budget.seconds

    def affordable(inputs: Arrays) -> bool:
        cost = elements(inputs)
        return (
            run.spent - start + cost <= allowed
            and max(max(value.shape, default=0) for value in inputs.values()) <= max(budget.size, *_sides(run.cases))
            and past_bytes(inputs) <= budget.past_bytes
            and run.seconds + cost / a_second <= stop
        )

    def attempt(name: str, inputs: Arrays, limit: Restriction | None = None, far: bool = False) -> Exception | None:
        try:
            run.add(name, inputs, limit, far=far)
        except CheckpointError:
            raise
        except Exception as error:  # models refuse sizes with any exception
            return error
        return None

    for name, inputs, stable in _contents(run):
        fits = _within(signature, inputs) and affordable(inputs)
        if fits and (stable or is_stable(run.source, inputs)):
            attempt(name, inputs)
    for name, inputs in _far(run):
        if _within(signature, inputs) and affordable(inputs) and is_stable(run.source, inputs):
            attempt(name, inputs, far=True)
    for number, size in enumerate(further_plan(generator, signature, run.source.named_sizes(), level)):
        made = _made(signature, size, number)
        if made is None or not _within(signature, made) or not affordable(made):
            continue
        sizes = signature.sizes_of(made)
        if not size.padded and tuple(sorted(sizes.items())) in known:
            continue
        refusal = attempt(size.name, made, _restriction(sizes, usual) if size.smallest else None)
        known.add(tuple(sorted(sizes.items())))
        if refusal is not None:
            _lower_limit(run, size, refusal)


def _contents(run: _Run) -> Iterator[tuple[str, Arrays, bool]]:
    """(name, inputs, stable); not stable: it is not known whether a tiny change makes quite other outputs."""
    signature, generator = run.signature, run.signature.generator
    rows = rows_of(generator, signature)
    base = {dim.name: dim.base_size for dim in generator.dims}
    with suppress(Exception):  # a preprocessing that refuses such sizes
        for name, inputs in special_contents(generator, base, rows):
            yield name, inputs, True
    with suppress(Exception):
        for name, inputs in extremes(generator, base, rows):
            yield name, inputs, False
    numbers = run.source.named_sizes()
    table = max((n for n, where in numbers.items() if "max_position" in where), default=2**31)
    inputs = run.cases[0].inputs
    positions = inputs.get("position_ids")
    if positions is not None and positions.size:
        largest = int(positions.max()) + 1
        for number in thresholds(numbers, largest, 2**31 - 1, Level.STANDARD):
            for end in (number - 1, number + 1):
                shifted = shifted_positions(inputs, end)
                if shifted is not None and end < table:
                    yield f"positions up to {end}", shifted, True


def _far(run: _Run) -> Iterator[tuple[str, Arrays]]:
    generator = run.signature.generator
    base = {dim.name: dim.base_size for dim in generator.dims}
    with suppress(Exception):  # a preprocessing that refuses such sizes
        yield from far_contents(generator, base, rows_of(generator, run.signature))


def _made(signature: Signature, planned: Planned, number: int) -> Arrays | None:
    """Inputs of a planned size; None where the preprocessing makes none."""
    generator = signature.generator
    cut = planned.cut
    with suppress(Exception):  # tokenizers and processors refuse sizes with any exception
        made = generator.make(planned.sizes, seed=100 + number, padded=planned.padded)
        # A tokenizer may keep its special tokens, however few tokens are asked for.
        if cut is None or signature.sizes_of(made).get(cut) == planned.sizes[cut]:
            return made
    if cut is None:
        return None
    with suppress(Exception):
        base = next(dim.base_size for dim in generator.dims if dim.name == cut)
        whole = generator.make(planned.sizes | {cut: base}, seed=100 + number)
        return _cut(signature, whole, cut, planned.sizes[cut])
    return None


def _cut(signature: Signature, arrays: Arrays, axis: str, size: int) -> Arrays:
    """The same inputs, shorter along one axis."""
    found = dict(arrays)
    for spec in signature.inputs:
        for index, name in enumerate(spec.axes):
            if name == axis:
                found[spec.name] = np.ascontiguousarray(np.take(found[spec.name], range(size), axis=index))
    return found


def _within(signature: Signature, inputs: Arrays) -> bool:
    """Whether the graph is to take inputs of these sizes: static axes and restrictions."""
    for spec in signature.inputs:
        static = zip(spec.axes, inputs[spec.name].shape, strict=True) if spec.name in inputs else ()
        if any(isinstance(axis, int) and axis != size for axis, size in static):
            return False
    sizes = signature.sizes_of(inputs)
    return all(restriction.holds(sizes) for restriction in signature.restrictions)


def _sides(cases: list[Case]) -> list[int]:
    """The largest sizes that were run anyway."""
    return [max(value.shape, default=0) for case in cases for value in case.inputs.values()]


def _smallest(cases: list[Case]) -> Sizes:
    return {axis: min(case.sizes[axis] for case in cases if axis in case.sizes) for axis in cases[0].sizes}


def _restriction(sizes: Sizes, usual: Sizes) -> Restriction | None:
    """To the smallest size that is compared anyway."""
    for axis, size in sizes.items():
        if size < usual.get(axis, 0):
            return Restriction(axis, Limit.AT_LEAST, usual[axis], f"the graph gives other numbers at {size}")
    return None


def _lower_limit(run: _Run, planned: Planned, refusal: Exception) -> None:
    """Where the source refuses the largest declared size, the largest that it takes."""
    declared = {
        (r.axis, int(r.operand)) for r in run.signature.restrictions if r.limit is Limit.AT_MOST
    }  # fmt: skip
    for axis, size in planned.sizes.items():
        if (axis, size) not in declared or axis not in run.signature.accepted:
            continue
        low, high = max(run.signature.accepted[axis]), size
        while high - low > 1:
            middle = (low + high) // 2
            try:
                run.source.run(run.signature.generator.make(planned.sizes | {axis: middle}))
                low = middle
            except Exception:
                high = middle
        with suppress(Exception):
            run.add(f"{axis.replace('_', ' ')} {low}", run.signature.generator.make(planned.sizes | {axis: low}))
        run.restrictions.append(Restriction(axis, Limit.AT_MOST, low, f"the model refuses more: {first_line(refusal)}"))


def _with_noise(run: _Run, structure: Structure | None) -> Recorded:
    """What all cases tell about rounding, for each."""
    judged = [change for change in structure.changes if change.judged] if structure is not None else []
    all_cases = [*run.cases, *(change.case for change in judged)]
    roundings = with_shared_noise([(case.outputs, case.rounding) for case in all_cases])
    noisy = [replace(case, rounding=rounding) for case, rounding in zip(all_cases, roundings, strict=True)]
    cases, others = noisy[: len(run.cases)], iter(noisy[len(run.cases) :])
    if structure is not None:
        changes: list[Change] = [
            replace(change, case=next(others)) if change.judged else change for change in structure.changes
        ]
        structure = replace(structure, changes=tuple(changes))
    return Recorded(cases, structure, tuple(run.restrictions))
