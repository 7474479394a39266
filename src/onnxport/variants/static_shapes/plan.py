"""Which graphs of a folder get which sizes: what a user said of axes, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from onnxport.artifact.manifest import Component
from onnxport.axes import Observation, is_explained, names_in
from onnxport.axes import evaluate as value_of
from onnxport.errors import UsageError, did_you_mean
from onnxport.runtime.session import check_restriction
from onnxport.specs import Limit, TensorSpec
from onnxport.tensor_names import NUM_LOGITS, NUM_LOGITS_TO_KEEP

_EXAMPLES = {"num_choices": 4, "sequence_length": 128, "past_sequence_length": 512, "num_samples": 16000}
_EXAMPLE, _STEP = 64, 1  # of other axes; of tokens a call, where there is a past
_ENCODER = "encoder_"
_PAST = "past_sequence_length"
_LEAST_CASES = 3


@dataclass(frozen=True)
class FixedPlan:
    """A graph and the sizes that it gets.

    Attributes:
        component: the graph with dynamic shapes.
        sizes: axis name -> size, of all axes of its inputs.
        given: those of them that were said; the others follow.
    """

    component: Component
    sizes: dict[str, int]
    given: dict[str, int]

    def with_sizes(self, **changes: int) -> dict[str, int]:
        """All sizes where some of those that were said are others."""
        said = self.given | changes
        return said | {axis: value_of(text, said) for axis, text in derived_axes(self.component).items()}


def parse_sizes(text: str) -> dict[str, int]:
    """`batch_size=1,sequence_length=128` as axis -> size.

    Raises:
        UsageError: it is not written like that, an axis comes twice, or a size is below 1.
    """
    sizes: dict[str, int] = {}
    hint = "Write --sizes batch_size=1,sequence_length=128"
    for pair in text.split(","):
        name, equals, number = (part.strip() for part in pair.partition("="))
        if not equals or not name or not number.isdecimal():
            raise UsageError(f"--sizes {text}: {pair!r} is not AXIS=NUMBER.", hint=hint)
        if name in sizes:
            raise UsageError(f"--sizes {text}: {name} has two sizes.", hint=hint)
        sizes[name] = int(number)
    return sizes


def axis_names(specs: Iterable[TensorSpec]) -> set[str]:
    """All names of axes, also those in expressions."""
    return {name for spec in specs for axis in spec.axes for name in names_in(axis)}


def derived_axes(component: Component) -> dict[str, str]:
    """Axes of inputs that follow from others: name -> expression of others.

    Those that a restriction says are equal to another; and sums of two others, in every case of the evidence.
    """
    names = axis_names(component.inputs)
    found = {
        one.axis: str(one.operand) for one in component.restrictions if one.limit is Limit.EQUAL and one.axis in names
    }
    cases = [case.sizes for case in (component.verification.cases if component.verification else ()) if case.ok]
    seen = [sizes for sizes in cases if names <= sizes.keys()]
    distinct = {tuple(sorted(sizes.items())): sizes for sizes in seen}
    if len(distinct) < _LEAST_CASES:
        return found
    for axis in sorted(names - found.keys()):
        others = sorted(names - found.keys() - {axis})
        observed = [Observation(sizes, sizes[axis]) for sizes in distinct.values()]
        if len({one.value for one in observed}) < _LEAST_CASES:
            continue
        sums = (f"{first} + {second}" for first, second in combinations(others, 2))
        total = next((text for text in sums if is_explained(text, observed)), None)
        if total is not None:
            found[axis] = total
    return found


def free_axes(component: Component) -> list[str]:
    """Axes of its inputs that need a size, in their order."""
    derived = derived_axes(component)
    names = [
        axis
        for spec in component.inputs
        if spec.name != NUM_LOGITS_TO_KEEP
        for axis in spec.axes
        if isinstance(axis, str)
    ]
    return [axis for axis in dict.fromkeys(names) if axis not in derived]


def example_command(folder: str, components: Sequence[Component], known: Mapping[str, int] | None = None) -> str:
    """A command with a size for every axis of these graphs; those in `known` are kept."""
    sizes: dict[str, int] = {}
    for component in components:
        for axis in free_axes(component):
            name = _spelled(axis, component, components)
            sizes[name] = (known or {}).get(name, _example(axis, component))
    return f"onnxport optimize {folder} --sizes {','.join(f'{axis}={size}' for axis, size in sizes.items())}"


def _spelled(axis: str, component: Component, components: Sequence[Component]) -> str:
    """An encoder's axis as the decoder calls it, which may have one of the same name for its own tokens."""
    longer = f"{_ENCODER}{axis}"
    known = any(longer in axis_names(one.inputs) for one in components)
    return longer if component.name.startswith(_ENCODER) and known else axis


def _example(axis: str, component: Component) -> int:
    """A usual size that keeps the restrictions."""
    size = 1 if axis.endswith("batch_size") else _EXAMPLES.get(axis, _EXAMPLE)
    if axis == "sequence_length" and _PAST in axis_names(component.inputs):
        size = _STEP
    for limit in component.restrictions:
        if limit.axis == axis:
            size = limit.nearest(size)
    return size


def plan_sizes(components: Sequence[Component], sizes: Mapping[str, int], folder: str) -> list[FixedPlan]:
    """The graphs that have axes among `sizes`, with the sizes of all their axes.

    Args:
        components: graphs with dynamic shapes.
        sizes: axis -> size for every graph that has the axis; `GRAPH.axis` for one graph alone.
        folder: as the user wrote it, for messages.

    Raises:
        UsageError: an axis that does not exist or is not free, one without a size, or a size that breaks a
            restriction.
    """
    _require_known(components, sizes, folder)
    chosen = [(component, said) for component in components if (said := _said(component, sizes))]
    if not chosen:
        raise UsageError(
            f"--sizes names no dynamic axis of a graph in {folder}.",
            hint=example_command(folder, [one for one in components if free_axes(one)]),
        )
    missing = {
        component.name: [axis for axis in free_axes(component) if axis not in said] for component, said in chosen
    }
    if any(missing.values()):
        some = "; ".join(f"{name} for {', '.join(axes)}" for name, axes in missing.items() if axes)
        all_axes = "; ".join(
            f"those of {component.name} are {', '.join(free_axes(component))}" for component, _ in chosen
        )
        raise UsageError(
            f"All axes need a size, also {some} ({all_axes}).",
            hint=example_command(folder, [component for component, _ in chosen], sizes),
        )
    return [_plan(component, said, folder) for component, said in chosen]


def _said(component: Component, sizes: Mapping[str, int]) -> dict[str, int]:
    """What `sizes` says of the axes of a graph."""
    own = {name.partition(".")[2]: size for name, size in sizes.items() if name.startswith(f"{component.name}.")}
    if component.name.startswith(_ENCODER):  # what it reads, as the decoder calls it
        own = {name.removeprefix(_ENCODER): n for name, n in sizes.items() if name.startswith(_ENCODER)} | own
    names = axis_names(component.inputs)
    return {name: size for name, size in {**sizes, **own}.items() if name in names}


def _plan(component: Component, said: dict[str, int], folder: str) -> FixedPlan:
    derived, free = derived_axes(component), free_axes(component)
    given = {axis: said[axis] for axis in free}
    sizes = given | {axis: value_of(text, given) for axis, text in derived.items()}
    for axis, size in said.items():
        if sizes[axis] != size:
            raise UsageError(
                f"{axis}={size} cannot be: it is {derived[axis]} = {sizes[axis]}.",
                hint=f"Leave {axis} out: {example_command(folder, [component], given)}",
            )
    for limit in component.restrictions:
        try:
            check_restriction(limit, sizes)
        except UsageError as error:
            raise UsageError(
                f"{component.name}: {error.message}",
                hint=example_command(folder, [component], {a: s for a, s in given.items() if a != limit.axis}),
            ) from error
    return FixedPlan(component, sizes, given)


def _require_known(components: Sequence[Component], sizes: Mapping[str, int], folder: str) -> None:
    """Every name is an axis, and every size is one."""
    free = list(dict.fromkeys(axis for component in components for axis in free_axes(component)))
    example = example_command(folder, components)
    for name, size in sizes.items():
        graph, dot, axis = name.rpartition(".")
        of = [one for one in components if not dot or one.name == graph]
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"{name}={size}: a size is a whole number from 1.", hint=example)
        if not of:
            raise UsageError(
                f"{name}: there is no graph {graph!r}.",
                hint=did_you_mean(graph, [one.name for one in components]) or example,
            )
        if any(axis in axis_names(one.inputs) for one in of):
            continue
        static = [(one, limit) for one in of for limit in one.restrictions if limit.axis == axis]
        static = [(one, limit) for one, limit in static if limit.limit is Limit.FIXED]
        if not static:
            raise _unknown_axis(name, size, free, folder, example)
        one, limit = static[0]
        if limit.operand != size:  # else it is as it is
            raise UsageError(
                f"{name}={size}: the axis is static, {one.name} is {limit.rule} ({limit.reason}).",
                hint=example if free else f"{one.name} has this one size: leave {axis} out.",
            )


def _unknown_axis(name: str, size: int, free: Sequence[str], folder: str, example: str) -> UsageError:
    """The error for a name that no input's axis has."""
    axis = name.rpartition(".")[2]
    if axis == NUM_LOGITS:
        return UsageError(
            f"{NUM_LOGITS}={size}: a graph with static shapes gives the logits of all tokens of a call.", hint=example
        )
    if not free:
        return UsageError(
            f"{name}={size}: the graphs of {folder} have no dynamic axis: their shapes are static already.",
            hint="Use the graph as it is.",
        )
    return UsageError(
        f"{name}={size}: there is no axis {axis!r}. The axes are {', '.join(free)}.",
        hint=f"{did_you_mean(axis, free)} {example}".strip(),
    )
