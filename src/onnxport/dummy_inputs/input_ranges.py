"""What the inputs of a model may be, found by running it: how large integers, and which free axes must be equal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from onnxport.dummy_inputs.base import InputGenerator, Sizes, base_sizes
from onnxport.dummy_inputs.declared import MOST, DeclaredInputGenerator, Range, Runs

if TYPE_CHECKING:
    from onnxport.sources.base import Declared

# A model is run once for each way to join knobs or to part axes.
_ATTEMPTS = 64
_BATCH = "batch_size"
# Outputs that differ by less between two images, of their size, say nothing about what was computed in between.
_DULL = 1e-2
AxisKey = tuple[str, int]


def integers_taken(generator: DeclaredInputGenerator, spec: Declared, runs: Runs) -> Range:
    """What the model takes in all places of an input, with limits that are powers of two or 0.

    An index into another input may be as large as that is long: the smallest sizes are tried, too.
    """
    base = base_sizes(generator)
    found = _range(generator, spec, runs, base)
    small = {dim.name: _smallest(dim.name, min(dim.base, *dim.others)) for dim in generator.dims}
    if small == base or runs(generator.make(small)) is None:
        return found
    takes = _takes(generator, spec, runs, small)
    if takes(found.highest - 1) and takes(found.lowest or int(not found.zero)):
        return found
    less = _range(generator, spec, runs, small)
    return Range(max(found.lowest, less.lowest), min(found.highest, less.highest), found.zero and less.zero)


def _smallest(name: str, smallest: int) -> int:
    """As verification has it."""
    return 1 if name.endswith(_BATCH) else 5 if name == "sequence_length" else smallest


def _takes(generator: DeclaredInputGenerator, spec: Declared, runs: Runs, sizes: Sizes) -> Callable[[int], bool]:
    arrays = generator.make(sizes)
    return lambda number: runs({**arrays, spec.name: np.full_like(arrays[spec.name], number)}) is not None


def _range(generator: DeclaredInputGenerator, spec: Declared, runs: Runs, sizes: Sizes) -> Range:
    takes, kind = _takes(generator, spec, runs, sizes), np.iinfo(spec.dtype)
    highest = 1
    while highest < min(MOST, kind.max) and takes(2 * highest - 1):
        highest *= 2
    zero = highest == 1 or takes(0)
    if kind.min == 0 or not takes(-1):
        return Range(0, highest, zero)
    lowest = -1
    while -lowest < highest and takes(2 * lowest):
        lowest = -highest if lowest == -1 and takes(-highest) else 2 * lowest
    return Range(lowest, highest, zero)


def infer_tied_axes(generator: DeclaredInputGenerator, runs: Runs) -> dict[AxisKey, str]:
    """The knobs of a sampler, some of them joined if the model does not run otherwise.

    Axes of inputs that belong together need not have usual names: the columns of one matrix and the rows of another.
    """
    if runs(generator.make(base_sizes(generator))) is not None:
        return generator.places
    for sizes_of in (_distinct, base_sizes):
        for joined in _joinings(generator):
            places = {place: joined.get(name, name) for place, name in generator.places.items()}
            other = type(generator)(generator.inputs, places, generator.limits)
            if runs(other.make(sizes_of(other))) is not None:
                return places
    return generator.places  # why it does not run is told when it is run


def _distinct(generator: InputGenerator) -> Sizes:
    """Another size for every knob, so that none is equal by chance."""
    sizes: Sizes = {}
    for dim in generator.dims:
        sizes[dim.name] = next((size for size in (dim.base, *dim.others) if size not in sizes.values()), dim.base)
    return sizes


def _joinings(generator: DeclaredInputGenerator) -> Iterator[dict[str, str]]:
    """Other names for knobs; few changes first, to names that say something; then one name for all."""
    known = [dim.name for dim in generator.dims if dim.name != _BATCH]
    ways = (
        [dict(zip(known, names, strict=True)) for names in product(known, repeat=len(known))] if len(known) < 4 else []
    )
    ways.sort(
        key=lambda way: (sum(old != new for old, new in way.items()), sum("_dim_" in new for new in way.values()))
    )
    yield from ways[1:_ATTEMPTS]
    yield dict.fromkeys(known, "sequence_length" if "sequence_length" in known else known[0] if known else "")


def own_name(input_name: str, axis: str) -> str:
    """A name for an axis of one input: a word, because expressions are made of them."""
    return re.sub(r"\W", "_", f"{input_name}_{axis}")


def infer_independent_axes(generator: DeclaredInputGenerator, runs: Runs) -> dict[AxisKey, str]:
    """The knobs of a sampler, with knobs of their own for axes that may differ from others of the same name."""
    base = base_sizes(generator)
    names = dict(generator.places)
    for dim in generator.dims:
        left = [place for place, name in generator.places.items() if name == dim.name]
        if len(left) < 2:
            continue
        for some in _subsets(left):
            if not set(some) <= set(left):
                continue
            name = own_name(some[0][0], dim.name)
            other = type(generator)(generator.inputs, {**names, **dict.fromkeys(some, name)}, generator.limits)
            sizes = {**base_sizes(other), **base, name: dim.others[0]}
            if runs(other.make(sizes)) is not None:
                names |= dict.fromkeys(some, name)
                left = [place for place in left if place not in some]
    return names


def _subsets(places: list[AxisKey]) -> Iterator[tuple[AxisKey, ...]]:
    """Small ones first; of many places those of one input."""
    if 2 ** len(places) > _ATTEMPTS:
        for name in dict.fromkeys(name for name, _ in places):
            yield tuple(place for place in places if place[0] == name)
        return
    for count in range(1, len(places)):
        yield from combinations(places, count)


def declared_generator(inputs: Sequence[Declared], runs: Runs) -> DeclaredInputGenerator:
    """The sampler of declared inputs; `runs` is the model."""
    limits = {spec.name: Range(0, 2) for spec in inputs}
    dims = infer_tied_axes(DeclaredInputGenerator(inputs, _dim_names(inputs), limits), runs)
    generator = DeclaredInputGenerator(inputs, dims, limits)
    for spec in inputs:
        if np.dtype(spec.dtype).kind in "iu" and not spec.is_mask:
            limits[spec.name] = integers_taken(generator, spec, runs)
    dims = infer_independent_axes(DeclaredInputGenerator(inputs, dims, limits), runs)
    generator = DeclaredInputGenerator(inputs, dims, limits)
    return DeclaredInputGenerator(inputs, dims, limits, _pixels(generator, runs))


def _dim_names(inputs: Sequence[Declared]) -> dict[tuple[str, int], str]:
    """A knob for each free axis; axes that usually belong together share one."""
    names = {}
    for spec in inputs:
        for axis, size in enumerate(spec.axes):
            if size is None:
                names[spec.name, axis] = _usual_name(spec, axis)
    return names


def _usual_name(spec: Declared, axis: int) -> str:
    if axis == 0:
        return "batch_size"
    if len(spec.axes) == 4:
        channels_last = spec.axes[1] is None or spec.axes[3] is not None
        sides = {1: "height", 2: "width"} if channels_last else {2: "height", 3: "width"}
        if axis in sides:
            return sides[axis]
    if axis == 1 and len(spec.axes) in (2, 3):
        return "sequence_length"
    return own_name(spec.name, f"dim_{axis}")


def _pixels(generator: DeclaredInputGenerator, runs: Runs) -> frozenset[str]:
    """Images whose numbers the model divides by 255 itself: it sees next to nothing of smaller ones."""
    images = frozenset(
        spec.name for spec in generator.inputs if len(spec.axes) == 4 and np.dtype(spec.dtype).kind == "f"
    )
    if not images:
        return images
    bright = DeclaredInputGenerator(generator.inputs, generator.places, generator.limits, images)
    small, large = _sensitivity(generator, runs), _sensitivity(bright, runs)
    return images if small < _DULL and large > 2 * small else frozenset()


def _sensitivity(generator: DeclaredInputGenerator, runs: Runs) -> float:
    """How much outputs differ between two samples, of their size; 0 where the model refuses them."""
    sizes = {dim.name: dim.base for dim in generator.dims}
    found = [runs(generator.make(sizes, seed=seed)) for seed in (2, 4)]
    if found[0] is None or found[1] is None:
        return 0.0
    changes = []
    for name, first in found[0].items():
        if first.dtype.kind == "f" and np.isfinite(first).all():
            scale = float(np.abs(first).mean(dtype=np.float64))
            changes.append(float(np.abs(first - found[1][name]).mean(dtype=np.float64)) / scale if scale else 0.0)
    return max(changes, default=0.0)
