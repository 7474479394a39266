"""Find out by running a model which integers its inputs accept, and which dynamic axes must be equal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from onnxport.dummy_inputs.base import InputGenerator, Sizes, base_sizes
from onnxport.dummy_inputs.declared import INTEGER_LIMIT, DeclaredInputGenerator, IntegerRange, RunModel

if TYPE_CHECKING:
    from onnxport.sources.base import Declared

# Limit of model runs for merging dimensions, and for splitting axes.
_ATTEMPTS = 64
_BATCH = "batch_size"
# If outputs for two images differ by less, relative to their size, the inputs were too small to matter.
_LOW_SENSITIVITY = 1e-2
AxisKey = tuple[str, int]


def accepted_integers(generator: DeclaredInputGenerator, spec: Declared, run: RunModel) -> IntegerRange:
    """Return the integers that the model accepts in all entries of an input; the lower limit is a power of two or 0.

    An index into another input is limited by the length of that input, so the smallest sizes are tried too.

    Args:
        generator: makes all inputs.
        spec: the integer input.
        run: runs the model.
    """
    base = base_sizes(generator)
    found = _integer_range(generator, spec, run, base)
    small = {dim.name: _smallest_size(dim.name, min(dim.base_size, *dim.probe_sizes)) for dim in generator.dims}
    if small == base or run(generator.make(small)) is None:
        return found
    accepts = _acceptance_test(generator, spec, run, small)
    if accepts(found.highest - 1) and accepts(found.lowest or int(not found.zero)):
        return found
    less = _integer_range(generator, spec, run, small)
    return IntegerRange(max(found.lowest, less.lowest), min(found.highest, less.highest), found.zero and less.zero)


def _smallest_size(name: str, smallest: int) -> int:
    """Return the smallest size that verification uses."""
    return 1 if name.endswith(_BATCH) else 5 if name == "sequence_length" else smallest


def _acceptance_test(
    generator: DeclaredInputGenerator, spec: Declared, run: RunModel, sizes: Sizes
) -> Callable[[int], bool]:
    arrays = generator.make(sizes)
    return lambda number: run({**arrays, spec.name: np.full_like(arrays[spec.name], number)}) is not None


def _integer_range(generator: DeclaredInputGenerator, spec: Declared, run: RunModel, sizes: Sizes) -> IntegerRange:
    accepts, kind = _acceptance_test(generator, spec, run, sizes), np.iinfo(spec.dtype)
    highest = 1
    while highest < min(INTEGER_LIMIT, kind.max) and accepts(2 * highest - 1):
        highest *= 2
    highest = _exact_limit(accepts, highest, min(2 * highest, INTEGER_LIMIT, kind.max))
    zero = highest == 1 or accepts(0)
    if kind.min == 0 or not accepts(-1):
        return IntegerRange(0, highest, zero)
    lowest = -1
    while -lowest < highest and accepts(2 * lowest):
        lowest = -highest if lowest == -1 and accepts(-highest) else 2 * lowest
    return IntegerRange(lowest, highest, zero)


def _exact_limit(accepts: Callable[[int], bool], highest: int, beyond: int) -> int:
    """Return the smallest number that is refused, between a limit that was accepted and one that was not."""
    while beyond - highest > 1:
        middle = (highest + beyond) // 2
        highest, beyond = (middle, beyond) if accepts(middle - 1) else (highest, middle)
    return highest


def infer_tied_axes(generator: DeclaredInputGenerator, run: RunModel) -> dict[AxisKey, str]:
    """Return the dimension names of a generator; dimensions are merged if the model does not run otherwise.

    Axes that must be equal need not have conventional names: the columns of one matrix and the rows of another.

    Args:
        generator: makes the inputs.
        run: runs the model.
    """
    if run(generator.make(base_sizes(generator))) is not None:
        return generator.dim_names
    for sizes_of in (_distinct_sizes, base_sizes):
        for merged in _merged_dims(generator):
            dim_names = {axis: merged.get(name, name) for axis, name in generator.dim_names.items()}
            other = type(generator)(generator.inputs, dim_names, generator.limits)
            if run(other.make(sizes_of(other))) is not None:
                return dim_names
    return generator.dim_names  # the error is raised when the model is run


def _distinct_sizes(generator: InputGenerator) -> Sizes:
    """Return a different size for every dimension, so that none are equal by accident."""
    sizes: Sizes = {}
    for dim in generator.dims:
        sizes[dim.name] = next(
            (size for size in (dim.base_size, *dim.probe_sizes) if size not in sizes.values()), dim.base_size
        )
    return sizes


def _merged_dims(generator: DeclaredInputGenerator) -> Iterator[dict[str, str]]:
    """Yield new names for dimensions: few changes first, conventional names first; finally one name for all."""
    names = [dim.name for dim in generator.dims if dim.name != _BATCH]
    options = (
        [dict(zip(names, new, strict=True)) for new in product(names, repeat=len(names))] if len(names) < 4 else []
    )

    def preference(option: dict[str, str]) -> tuple[int, int]:
        return sum(old != new for old, new in option.items()), sum("_dim_" in new for new in option.values())

    options.sort(key=preference)
    yield from options[1:_ATTEMPTS]
    yield dict.fromkeys(names, "sequence_length" if "sequence_length" in names else names[0] if names else "")


def axis_name(input_name: str, axis: str) -> str:
    """Return a name for an axis of one input; it is an identifier, because it is used in expressions.

    Args:
        input_name: name of the input.
        axis: name of the axis.
    """
    return re.sub(r"\W", "_", f"{input_name}_{axis}")


def infer_independent_axes(generator: DeclaredInputGenerator, run: RunModel) -> dict[AxisKey, str]:
    """Return the dimension names of a generator, where axes that can differ have their own dimensions.

    Args:
        generator: makes the inputs.
        run: runs the model.
    """
    base = base_sizes(generator)
    names = dict(generator.dim_names)
    for dim in generator.dims:
        remaining = [axis for axis, name in generator.dim_names.items() if name == dim.name]
        if len(remaining) < 2:
            continue
        for subset in _axis_subsets(remaining):
            if not set(subset) <= set(remaining):
                continue
            name = axis_name(subset[0][0], dim.name)
            other = type(generator)(generator.inputs, {**names, **dict.fromkeys(subset, name)}, generator.limits)
            sizes = {**base_sizes(other), **base, name: dim.probe_sizes[0]}
            if run(other.make(sizes)) is not None:
                names |= dict.fromkeys(subset, name)
                remaining = [axis for axis in remaining if axis not in subset]
    return names


def _axis_subsets(axes: list[AxisKey]) -> Iterator[tuple[AxisKey, ...]]:
    """Yield subsets, small ones first; for many axes, those of one input each."""
    if 2 ** len(axes) > _ATTEMPTS:
        for name in dict.fromkeys(name for name, _ in axes):
            yield tuple(axis for axis in axes if axis[0] == name)
        return
    for count in range(1, len(axes)):
        yield from combinations(axes, count)


def declared_generator(inputs: Sequence[Declared], run: RunModel) -> DeclaredInputGenerator:
    """Return an input generator for declared inputs.

    Args:
        inputs: the declared inputs.
        run: runs the model.
    """
    limits = {spec.name: IntegerRange(0, 2) for spec in inputs}
    dims = infer_tied_axes(DeclaredInputGenerator(inputs, _dim_names(inputs), limits), run)
    generator = DeclaredInputGenerator(inputs, dims, limits)
    for spec in inputs:
        if np.dtype(spec.dtype).kind in "iu" and not spec.is_mask:
            limits[spec.name] = accepted_integers(generator, spec, run)
    dims = infer_independent_axes(DeclaredInputGenerator(inputs, dims, limits), run)
    generator = DeclaredInputGenerator(inputs, dims, limits)
    return DeclaredInputGenerator(inputs, dims, limits, _pixels(generator, run))


def _dim_names(inputs: Sequence[Declared]) -> dict[tuple[str, int], str]:
    """Return a dimension for each dynamic axis; axes that are conventionally equal share one."""
    names = {}
    for spec in inputs:
        for axis, size in enumerate(spec.axes):
            if size is None:
                names[spec.name, axis] = _conventional_name(spec, axis)
    return names


def _conventional_name(spec: Declared, axis: int) -> str:
    if axis == 0:
        return "batch_size"
    if len(spec.axes) == 4:
        channels_last = spec.axes[1] is None or spec.axes[3] is not None
        sides = {1: "height", 2: "width"} if channels_last else {2: "height", 3: "width"}
        if axis in sides:
            return sides[axis]
    if axis == 1 and len(spec.axes) in (2, 3):
        return "sequence_length"
    return axis_name(spec.name, f"dim_{axis}")


def _pixels(generator: DeclaredInputGenerator, run: RunModel) -> frozenset[str]:
    """Return images that the model divides by 255 itself; values near 0 would hardly change its outputs."""
    images = frozenset(
        spec.name for spec in generator.inputs if len(spec.axes) == 4 and np.dtype(spec.dtype).kind == "f"
    )
    if not images:
        return images
    bright = DeclaredInputGenerator(generator.inputs, generator.dim_names, generator.limits, images)
    small, large = _sensitivity(generator, run), _sensitivity(bright, run)
    return images if small < _LOW_SENSITIVITY and large > 2 * small else frozenset()


def _sensitivity(generator: DeclaredInputGenerator, run: RunModel) -> float:
    """Return how much outputs differ between two samples, relative to their size; 0 if the model fails."""
    sizes = {dim.name: dim.base_size for dim in generator.dims}
    found = [run(generator.make(sizes, seed=seed)) for seed in (2, 4)]
    if found[0] is None or found[1] is None:
        return 0.0
    changes = []
    for name, first in found[0].items():
        if first.dtype.kind == "f" and np.isfinite(first).all():
            scale = float(np.abs(first).mean(dtype=np.float64))
            changes.append(float(np.abs(first - found[1][name]).mean(dtype=np.float64)) / scale if scale else 0.0)
    return max(changes, default=0.0)
