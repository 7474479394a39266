"""The algebra of axes: from observed sizes to a name, a constant or an expression.

An output axis is observed at several input sizes. `fit` looks for the simplest expression over
the input axes that explains every observation: a constant, an axis, a sum, a multiple, the
floor form `(x + b) // c + d` (any chain of strided convolutions and poolings is one: nested
floors compose, floor((floor(x / a) + b) / c) = floor((x + a * b) / (a * c)), Knuth, Concrete
Mathematics, eq. 3.10), and sums or products of two such terms (patches of an image).

Expressions are strings in Python's syntax, `+ - * //` and parentheses over axis names, so that
a manifest stays readable; `evaluate` computes them without `eval`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

Sizes = Mapping[str, int]
Probe = Callable[[int], "int | None"]


@dataclass(frozen=True)
class Observation:
    """The length of one axis (`value`) at one set of input sizes."""

    sizes: Sizes
    value: int


def evaluate(expression: int | str, sizes: Sizes) -> int:
    """The value of an axis expression.

    Raises:
        KeyError: the expression names an axis that `sizes` lacks.
        ValueError: not an expression of names, integers, + - * // and parentheses.
    """
    if isinstance(expression, int):
        return expression
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is not an axis expression") from error
    return _evaluate(tree, sizes, expression)


def _evaluate(node: ast.expr, sizes: Sizes, source: str) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, sizes, source)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, sizes, source), _evaluate(node.right, sizes, source)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.FloorDiv() if right != 0:
                return left // right
    raise ValueError(f"{source!r} is not an axis expression")


def names_in(expression: int | str) -> frozenset[str]:
    """The axis names that an expression mentions."""
    if isinstance(expression, int):
        return frozenset()
    return frozenset(node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name))


def is_explained(expression: int | str, observations: Sequence[Observation]) -> bool:
    """Whether the expression gives the observed value everywhere."""
    return all(evaluate(expression, o.sizes) == o.value for o in observations)


def fit(observations: Sequence[Observation], probes: Mapping[str, Probe] | None = None) -> int | str | None:
    """The simplest expression that explains all observations, or None.

    Args:
        observations: the first is the base; others should change one axis each, and at least
            one all of them together (it decides between a sum and a product).
        probes: per axis a function from a size of that axis (all others at base) to the value
            observed there, or None where the model refuses the size. Used only to pin down a
            floor form, about 2 * log2(c) calls.
    """
    if not observations:
        return None
    base = observations[0]
    if all(o.value == base.value for o in observations):
        return base.value
    slices = {name: points for name in base.sizes if len(points := _slice(observations, name)) > 1}
    moving = [name for name, points in slices.items() if len(set(points.values())) > 1]
    probes = probes or {}
    for name in moving:
        if is_explained(name, observations):
            return name
    if len(moving) == 1:
        return _fit_single(moving[0], slices[moving[0]], probes.get(moving[0]), observations)
    if len(moving) == 2:
        return _fit_pair(moving, slices, probes, observations)
    total = " + ".join(moving)
    return total if total and is_explained(total, observations) else None


def _slice(observations: Sequence[Observation], name: str) -> dict[int, int]:
    """Values over one axis, the others at base."""
    base = observations[0].sizes
    return {
        o.sizes[name]: o.value
        for o in observations
        if all(o.sizes[other] == size for other, size in base.items() if other != name)
    }


def _fit_single(
    name: str, points: dict[int, int], probe: Probe | None, observations: Sequence[Observation]
) -> str | None:
    for expression in _line(name, points, probe):
        if is_explained(expression, observations):
            return expression
    return None


def _line(name: str, points: dict[int, int], probe: Probe | None) -> list[str]:
    """Candidate expressions for one axis alone: `c * x + d`, then `(x + b) // c + d`."""
    low, high = min(points), max(points)
    run, rise = high - low, points[high] - points[low]
    if rise == 0:
        return []
    if rise % run == 0:
        factor = rise // run
        text = name if factor == 1 else f"{factor} * {name}"
        candidates = [plus(text, points[low] - factor * low)]
        if all(value == factor * size + points[low] - factor * low for size, value in points.items()):
            return candidates
    if rise < 0:
        return []
    if run % rise == 0:  # sizes that are all multiples of the divisor show it at once
        divisor = run // rise
        shift = points[low] - low // divisor
        if all(value == size // divisor + shift for size, value in points.items()) and (
            probe is None
            or (all(size % divisor == 0 for size in points) and _steps_at(low, points[low], divisor, probe))
        ):
            return [plus(f"{name} // {divisor}", shift)]
    return _floor(name, points, probe) or _stepped(name, points, probe)


def _steps_at(multiple: int, value: int, divisor: int, probe: Probe) -> bool:
    """Whether values rise at multiples of the divisor: a kernel moves the step, `(x + 1) // 2` rises before one.

    A size that the model refuses tells nothing; where it takes multiples alone, the difference does not show.
    """
    return probe(multiple + divisor - 1) in (value, None)


def _stepped(name: str, points: dict[int, int], probe: Probe | None) -> list[str]:
    """`k * (floor form) + r`: an image that is cut to whole patches and scaled back."""
    low = points[min(points)]
    step = _step(min(points), math.gcd(*(value - low for value in points.values())), low, probe)
    if step < 2:
        return []
    rest = low % step

    def scaled(size: int) -> int | None:
        seen = probe(size) if probe else None
        return None if seen is None else (seen - rest) // step

    inner = _line(name, {size: (value - rest) // step for size, value in points.items()}, scaled if probe else None)
    return [plus(f"{step} * {parenthesized(text)}", rest) for text in inner]


def _step(size: int, step: int, value: int, probe: Probe | None) -> int:
    """The largest step that sizes between do not refute: all observed sizes may be multiples of more than the step."""
    tried = 0
    while probe is not None and step > 1 and tried != step:
        tried = step
        for between in (1, 2, step // 2):
            seen = probe(size + between)
            step = math.gcd(step, seen - value) if seen is not None else step
    return step


def _floor(name: str, points: dict[int, int], probe: Probe | None) -> list[str]:
    """`(x + b) // c + d`, pinned by the positions of two steps, found by bisection."""
    low, high = min(points), max(points)
    if probe is None or points[high] - points[low] < 2:
        return []
    first = _first_size_with(points[low] + 1, low, high, probe)
    last = _first_size_with(points[high], low, high, probe)
    if first is None or last is None:
        return []
    steps = points[high] - points[low] - 1
    if steps < 1 or (last - first) % steps:
        return []
    divisor = (last - first) // steps
    if divisor < 2:
        return []
    offset = -first % divisor
    shift = points[low] + 1 - (first + offset) // divisor
    # Prefer the way people write it: a convolution's (x - kernel) // stride + 1.
    if offset and shift == 0 and offset == divisor - 1:
        return [f"({name} + {offset}) // {divisor}"]
    if offset:
        offset, shift = offset - divisor, shift + 1
        return [plus(f"({name} - {-offset}) // {divisor}", shift)]
    return [plus(f"{name} // {divisor}", shift)]


def _first_size_with(value: int, low: int, high: int, probe: Probe) -> int | None:
    """The smallest size in (low, high] whose observed value reaches `value` (values never fall)."""
    while high - low > 1:
        middle = (low + high) // 2
        seen = probe(middle)
        if seen is None:
            return None
        if seen >= value:
            high = middle
        else:
            low = middle
    return high


def _fit_pair(
    moving: list[str],
    slices: Mapping[str, dict[int, int]],
    probes: Mapping[str, Probe],
    observations: Sequence[Observation],
) -> str | None:
    left, right = moving
    base = observations[0].value
    for first in _line(left, slices[left], probes.get(left)):  # a sum: f(x) + g(y)
        for second in _line(right, {k: v - base for k, v in slices[right].items()}, _shifted(probes.get(right), base)):
            expression = plus_text(first, second)
            if is_explained(expression, observations):
                return _simplified(expression, observations)
    for extra in range(0, 17):  # a product plus class or register tokens: f(x) * g(y) + d
        for expression in _products(moving, slices, probes, base, extra):
            if is_explained(expression, observations):
                return expression
    return None


def _products(
    moving: list[str],
    slices: Mapping[str, dict[int, int]],
    probes: Mapping[str, Probe],
    base: int,
    extra: int,
) -> Iterator[str]:
    """Candidates `f(x) * g(y) + extra`. On the slice of x, g is a constant that divides every value."""
    left, right = moving
    common = [math.gcd(*(value - extra for value in slices[name].values())) for name in moving]
    if 0 in common or base <= extra:
        return
    for constant in (d for d in range(1, common[0] + 1) if common[0] % d == 0):  # g at the base size
        other = (base - extra) // constant  # f at the base size
        if other * constant != base - extra or common[1] % other:
            continue
        first = _factor(left, slices[left], probes.get(left), extra, constant)
        second = _factor(right, slices[right], probes.get(right), extra, other)
        if first and second:
            yield plus(f"{parenthesized(first)} * {parenthesized(second)}", extra)


def _factor(name: str, points: dict[int, int], probe: Probe | None, extra: int, constant: int) -> str | None:
    def scaled(size: int) -> int | None:
        seen = probe(size) if probe else None
        return None if seen is None else (seen - extra) // constant

    lines = _line(name, {k: (v - extra) // constant for k, v in points.items()}, scaled if probe else None)
    return lines[0] if lines else None


def _shifted(probe: Probe | None, base: int) -> Probe | None:
    if probe is None:
        return None

    def shifted(size: int) -> int | None:
        seen = probe(size)
        return None if seen is None else seen - base

    return shifted


def _simplified(expression: str, observations: Sequence[Observation]) -> str:
    """`a + x - a` is `x`: the plain sum of the names when that explains as much."""
    names = sorted(names_in(expression))
    for count in (1, 2):
        for chosen in combinations(names, count):
            text = " + ".join(chosen)
            if is_explained(text, observations):
                return text
    return expression


def plus(text: str, number: int) -> str:
    """`text + number` as people write it."""
    if number == 0:
        return text
    return f"{text} + {number}" if number > 0 else f"{text} - {-number}"


def plus_text(first: str, second: str) -> str:
    return f"{first} + {second}"


def parenthesized(text: str) -> str:
    return text if text.isidentifier() else f"({text})"
