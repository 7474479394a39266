"""Which sizes and contents are compared: those that every verification has, and further ones by level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxport.axes import evaluate, names_in
from onnxport.dummy_inputs.base import InputGenerator, Sizes
from onnxport.errors import ExportError
from onnxport.export.signature import IMAGE_SIDES, Signature
from onnxport.specs import Limit
from onnxport.verification.level import Level
from onnxport.verification.thresholds import around, thresholds

# Dimensions whose sizes are no lengths that a config names.
_NO_LENGTHS = (*IMAGE_SIDES, "num_samples", "num_choices", "image_size")
_ROWS = 17  # more than a block of 16, and no multiple of a usual one
_LARGE = 1024
_NEAR = 2000  # sizes that are looked at for another remainder
_FAR = 131  # beyond a distance of 128, from where on relative positions of T5 share a bucket


@dataclass(frozen=True)
class Planned:
    """One case that is to be run.

    Attributes:
        name: for the record.
        sizes: of the generator's dimensions.
        padded: rows after the first are shorter.
        needed: the graph is of no use without it: a source that refuses it is an error.
        smallest: below all sizes that were probed. A graph that is wrong there is restricted to larger ones.
        cut: dimension that is cut to its size afterwards, because the preprocessing makes none that small.
    """

    name: str
    sizes: Sizes
    padded: bool = False
    needed: bool = False
    smallest: bool = False
    cut: str | None = None


def basic_plan(generator: InputGenerator, signature: Signature) -> Iterator[Planned]:
    """The cases that every verification has; none but the first was traced.

    Raises:
        ExportError: a size without which the graph is of no use is not free.
    """
    base = {dim.name: dim.base_size for dim in generator.dims}
    rows = rows_of(generator, signature)
    free = [name for name in signature.accepted if name not in rows]
    unseen = {name: _unseen(name, generator, signature) for name in free}
    yield Planned("traced", signature.traced)
    yield Planned("batch of one", base | dict.fromkeys(rows, 1))
    if unseen:
        yield Planned("larger", base | {name: sizes[1] for name, sizes in unseen.items()})
        smaller = {name: sizes[0] for name, sizes in unseen.items()}
        yield Planned("larger batch, smaller", base | dict.fromkeys(rows, 5) | smaller)
        for name in unseen if len(unseen) > 1 else ():
            yield Planned(f"other {_words(name)}", base | {name: unseen[name][1]})
        for name, others in unseen.items():
            size = _other_remainder(name, generator, signature, (signature.traced[name], *others))
            if size is not None:
                yield Planned(f"{_words(name)} {size}", base | {name: size})
    else:
        yield Planned("larger batch", base | dict.fromkeys(rows, 5))
        yield Planned("other content", base)
        yield Planned("other content again", base | dict.fromkeys(rows, 3))
    for label, sizes in _edges(generator, signature).items():
        yield Planned(label, base | sizes, needed=True)
        if generator.can_pad:
            yield Planned(f"padded rows, {label}", base | dict.fromkeys(rows, 3) | sizes, padded=True, needed=True)
    if generator.can_pad:
        larger = {name: sizes[1] for name, sizes in unseen.items()}
        yield Planned("padded rows", base | dict.fromkeys(rows, 3) | larger, padded=True)


def _other_remainder(
    name: str, generator: InputGenerator, signature: Signature, planned: Sequence[int]
) -> int | None:  # fmt: skip
    """A size that is even where all planned ones are odd or the other way round, or makes such an output.

    Code that pads to an even length and was traced where nothing was missing pads nowhere, and all sizes of the same
    remainder agree.
    """
    dim = next(dim for dim in generator.dims if dim.name == name)
    base = {dim.name: dim.base_size for dim in generator.dims}
    outputs = {axis for spec in signature.outputs for axis in spec.axes if isinstance(axis, str) and "//" in axis}
    lengths = [name, *sorted(axis for axis in outputs if name in names_in(axis) and names_in(axis) <= base.keys())]

    def odd(length: str, size: int) -> bool:
        return evaluate(length, base | {name: size}) % 2 == 1

    alike = [length for length in lengths if len({odd(length, size) for size in planned}) == 1]
    before = {length: odd(length, planned[0]) for length in alike}
    step = signature.multiples.get(name, 1)
    best, most = None, 0
    for size in range(dim.base_size // step * step + step, dim.base_size + _NEAR, step):
        allowed = size <= (dim.maximum or size) and all(
            rule.holds(base | {name: size}) for rule in signature.restrictions if rule.axis == name
        )
        changed = sum(odd(length, size) != before[length] for length in alike) if allowed else 0
        if changed > most:
            best, most = size, changed
        if most == len(alike):
            break
    return best


def further_plan(
    generator: InputGenerator, signature: Signature, numbers: Mapping[int, str], level: Level
) -> Iterator[Planned]:
    """Sizes at the ends of each axis, and on both sides of the thresholds that the model names; the most telling first.

    Args:
        numbers: what the model names, and where (`Source.named_sizes`).
    """
    base = {dim.name: dim.base_size for dim in generator.dims}
    rows = rows_of(generator, signature)
    one = base | dict.fromkeys(rows, 1)
    lengths = [name for name in signature.accepted if name not in (*rows, *_NO_LENGTHS)]
    for name in lengths:
        if 1 not in _edge_sizes(generator, name):
            yield Planned(f"{_words(name)} 1", base | {name: 1}, smallest=True, cut=name)
    if rows:
        small = {name: _unseen(name, generator, signature)[0] for name in lengths}
        yield Planned(f"batch of {_ROWS}", base | dict.fromkeys(rows, _ROWS) | small, padded=generator.can_pad)
    most = {name: _most(name, generator, signature, numbers) for name in lengths}
    for name, size in most.items():
        yield Planned(f"{_words(name)} {size}", one | {name: size})
        if size > _LARGE:  # which may cost too much
            yield Planned(
                f"{_words(name)} {_FAR}", one | {name: _FAR // signature.multiples[name] * signature.multiples[name]}
            )
    for name, size in most.items():
        smallest = min(signature.accepted[name])
        for threshold in thresholds(numbers, smallest, size - 1, level):
            for near in around(threshold, level):
                if near < size:
                    yield Planned(f"{_words(name)} {near}", one | {name: near})
    yield from _images(generator, signature, base)
    if "num_samples" in signature.accepted:
        usual = signature.accepted["num_samples"][0]
        yield Planned("short sound", base | {"num_samples": usual // 4}, smallest=True)
        yield Planned("long sound", one | {"num_samples": usual * 4 + 1})


def rows_of(generator: InputGenerator, signature: Signature) -> list[str]:
    """The dimensions that are numbers of rows, and free."""
    return [
        dim.name for dim in generator.dims if dim.name.endswith("batch_size") and dim.name in signature.accepted
    ]  # fmt: skip


def _images(generator: InputGenerator, signature: Signature, base: Sizes) -> Iterator[Planned]:
    """Small images, and others of a shape that is neither square nor usual."""
    sides = [name for name in IMAGE_SIDES if name in signature.accepted]

    def times(name: str, numerator: int, denominator: int) -> int:
        step = signature.multiples.get(name, 1)
        return max(signature.accepted[name][0] * numerator // denominator // step, 1) * step

    if len(sides) == len(IMAGE_SIDES):
        yield Planned("wide image", base | {"height": times("height", 3, 4), "width": times("width", 2, 1)})
    for name in sides:
        yield Planned(f"small {name}", base | {name: times(name, 1, 2)}, smallest=True)


def _most(name: str, generator: InputGenerator, signature: Signature, numbers: Mapping[int, str]) -> int:
    """The largest size that is declared, or that the model names; else one beyond the usual distances."""
    step = signature.multiples.get(name, 1)
    limits = [int(r.operand) for r in signature.restrictions if r.axis == name and r.limit is Limit.AT_MOST]
    dim = next(dim for dim in generator.dims if dim.name == name)
    if dim.maximum is not None:
        limits.append(dim.maximum)
    if not limits:
        named = [n for n, where in numbers.items() if "max_position" in where and n > max(signature.accepted[name])]
        others = sum(other.base_size for other in generator.dims if _adds_up(name, other.name))
        limits = [min(named) - others] if named else []
    far = max(_FAR, max(signature.accepted[name]) * 2 + 1)
    return max((min(limits) if limits else far) // step, 1) * step


def _adds_up(name: str, other: str) -> bool:
    """Whether a position is the sum of both: past tokens and new ones."""
    pair = {"sequence_length", "past_sequence_length"}
    return name != other and {name, other} == pair


def _edge_sizes(generator: InputGenerator, name: str) -> tuple[int, ...]:
    return next(dim.edge_sizes for dim in generator.dims if dim.name == name)


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
    return {f"{_words(dim.name)} {size}": {dim.name: size} for dim in generator.dims for size in dim.edge_sizes}


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


def _words(name: str) -> str:
    return name.replace("_", " ")
