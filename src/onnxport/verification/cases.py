"""The inputs on which source and graph are compared, and the source's outputs for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnxport.dummy_inputs.base import Arrays, InputGenerator, Sizes
from onnxport.errors import CheckpointError, ExportError
from onnxport.export.signature import Signature
from onnxport.sources.base import Source
from onnxport.specs import Limit
from onnxport.system.library_errors import first_line
from onnxport.verification.rounding import Rounding, measure_rounding, with_shared_noise

_LEAST_CASES = 4  # the traced sizes and three others


@dataclass(frozen=True)
class Case:
    """One set of inputs and what the source made of them.

    Attributes:
        sizes: of input axes, by name.
        outputs: of the source in float32.
        rounding: what rounding does to them; None where that is not known.
    """

    name: str
    sizes: Sizes
    inputs: Arrays
    outputs: Arrays
    rounding: Rounding | None = None


def record(source: Source, signature: Signature) -> list[Case]:
    """Run the source at the traced sizes and at others that were not traced.

    Raises:
        ExportError: fewer than three sizes beside the traced ones could be run, or the source's
            own outputs are not finite anywhere.
    """
    generator = signature.generator
    in_float32 = getattr(source, "precision", "float32") == "float32"
    cases: list[Case] = []
    refusal: Exception | None = None
    with source.weights_kept():
        for number, (name, sizes, padded, needed) in enumerate(_plan(generator, signature)):
            try:
                inputs = generator.make(sizes, seed=number, padded=padded)
                run = source.measured(inputs)
            except CheckpointError:  # a weight file that cannot be read is no refusal
                raise
            except Exception as error:  # models refuse sizes with any exception
                refusal = error
                if needed:
                    raise ExportError(f"{source.architecture} does not run at {name}: {first_line(error)}.") from error
                continue
            rounding = measure_rounding(run) if in_float32 else None
            cases.append(Case(name, signature.sizes_of(inputs), inputs, run.outputs, rounding))
    if len(cases) < _LEAST_CASES:
        raise ExportError(
            f"{source.architecture} ran at {len(cases)} of the sizes planned for verification, "
            f"{_LEAST_CASES} are needed: {first_line(refusal)}."
        )
    if not any(np.isfinite(value).any() for case in cases for value in case.outputs.values()):
        raise ExportError(f"{source.architecture} gives no finite number itself.")
    roundings = with_shared_noise([(case.outputs, case.rounding) for case in cases])
    return [replace(case, rounding=rounding) for case, rounding in zip(cases, roundings, strict=True)]


def _plan(generator: InputGenerator, signature: Signature) -> Iterator[tuple[str, Sizes, bool, bool]]:
    """(name, knob sizes, padded, needed) of every case; none but the first was traced.

    Raises:
        ExportError: a size without which the graph is of no use is not free.
    """
    base = {dim.name: dim.base_size for dim in generator.dims}
    rows = [name for name in base if name.endswith("batch_size") and name in signature.accepted]
    free = [name for name in signature.accepted if name not in rows]
    unseen = {name: _unseen(name, generator, signature) for name in free}
    yield "traced", signature.traced, False, False
    yield "batch of one", base | dict.fromkeys(rows, 1), False, False
    if unseen:
        yield "larger", base | {name: sizes[1] for name, sizes in unseen.items()}, False, False
        smaller = {name: sizes[0] for name, sizes in unseen.items()}
        yield "larger batch, smaller", base | dict.fromkeys(rows, 5) | smaller, False, False
        for name in unseen if len(unseen) > 1 else ():
            yield f"other {name.replace('_', ' ')}", base | {name: unseen[name][1]}, False, False
    else:
        yield "larger batch", base | dict.fromkeys(rows, 5), False, False
        yield "other content", base, False, False
        yield "other content again", base | dict.fromkeys(rows, 3), False, False
    for label, sizes in _edges(generator, signature).items():
        yield label, base | sizes, False, True
        if generator.can_pad:
            yield f"padded rows, {label}", base | dict.fromkeys(rows, 3) | sizes, True, True
    if generator.can_pad:
        yield "padded rows", base | dict.fromkeys(rows, 3) | {n: s[1] for n, s in unseen.items()}, True, False


def _edges(generator: InputGenerator, signature: Signature) -> dict[str, Sizes]:
    """Sizes without which the graph is of no use, with a name.

    Raises:
        ExportError: the axis came out fixed.
    """
    fixed = {r.axis: r for r in signature.restrictions if r.limit is Limit.FIXED}
    for dim in generator.dims:
        if dim.edge_sizes and dim.name in fixed:
            raise ExportError(
                f"{dim.name} is {fixed[dim.name].rule} ({fixed[dim.name].reason}), but this task needs any, "
                f"{', '.join(map(str, dim.edge_sizes))} too."
            )
    return {
        f"{dim.name.replace('_', ' ')} {size}": {dim.name: size} for dim in generator.dims for size in dim.edge_sizes
    }


def _unseen(name: str, generator: InputGenerator, signature: Signature) -> tuple[int, int]:
    """A smaller and a larger size of a knob that were not probed, within its limits."""
    dim = next(dim for dim in generator.dims if dim.name == name)
    step = signature.multiples.get(name, 1)
    accepted = signature.accepted[name]
    limits = [r for r in signature.restrictions if r.axis == name]
    most = min([int(r.operand) for r in limits if r.limit is Limit.AT_MOST] + [dim.maximum or 10**9])
    least = max([int(r.operand) for r in limits if r.limit is Limit.AT_LEAST] + [2])
    if name == "num_choices":
        return 2, 5
    small, large = (5, 61) if name == "sequence_length" else (accepted[0] * 7 // 8, accepted[0] * 11 // 8 + 1)
    if small < 3 or small >= accepted[0]:
        small = accepted[0] + 1
    small, large = max(small, least), min(large, most)
    return max(small // step, 1) * step, max(large // step, 1) * step
