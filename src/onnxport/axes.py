"""Derive an expression for the size of an axis from observed sizes: a name, a constant, or a formula.

An output axis is observed at several input sizes. `fit` returns the simplest expression of the input axes that explains
all observations: a constant, an axis, a sum, a multiple, the floor form `(x + b) // c + d`, or a sum or product of two
of these (patches of an image).

Any chain of strided convolutions and poolings has the floor form, because nested floors can be combined:
floor((floor(x / a) + b) / c) = floor((x + a * b) / (a * c)) (Graham, Knuth, Patashnik, Concrete Mathematics, eq. 3.10).

Expressions are strings in Python syntax with `+ - * //`, parentheses and axis names, so the manifest stays readable.
`evaluate` computes them without `eval`.
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
    """The size of one axis at one set of input sizes.

    Attributes:
        sizes: input axis -> size.
        value: size of the observed axis.
    """

    sizes: Sizes
    value: int


def evaluate(expression: int | str, sizes: Sizes) -> int:
    """Return the value of an axis expression.

    Args:
        expression: a number, a name or an expression: "(num_samples - 400) // 320 + 1".
        sizes: axis name -> size.

    Raises:
        KeyError: `sizes` lacks an axis of the expression.
        ValueError: not an expression of names, integers, + - * // and parentheses.

    Example:
        >>> evaluate("2 * height", {"height": 7})
        14
    """
    if isinstance(expression, int):
        return expression
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
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
    """Return the axis names in an expression.

    Args:
        expression: a number or an expression.
    """
    if isinstance(expression, int):
        return frozenset()
    return frozenset(node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name))


def is_explained(expression: int | str, observations: Sequence[Observation]) -> bool:
    """Return whether the expression gives the observed value in every observation.

    Args:
        expression: a number or an expression.
        observations: the observations.
    """
    return all(evaluate(expression, o.sizes) == o.value for o in observations)


def fit(observations: Sequence[Observation], probes: Mapping[str, Probe] | None = None) -> int | str | None:
    """Return the simplest expression that explains all observations, or None.

    Args:
        observations: the first is the base. Others should change one axis each, and at least one all axes together,
            which
            decides between a sum and a product.
        probes: axis -> function from its size (other axes at base) to the observed value, None where the model fails.
            They
            are called only to find a floor form, about 2 * log2(c) times.
    """
    if not observations:
        return None
    base = observations[0]
    if all(o.value == base.value for o in observations):
        return base.value
    slices = {name: points for name in base.sizes if len(points := _slice(observations, name)) > 1}
    varying = [name for name, points in slices.items() if len(set(points.values())) > 1]
    probes = probes or {}
    for name in varying:
        if is_explained(name, observations):
            return name
    if len(varying) == 1:
        return _fit_single(varying[0], slices[varying[0]], probes.get(varying[0]), observations)
    if len(varying) == 2:
        return _fit_pair(varying, slices, probes, observations)
    total = " + ".join(varying)
    return total if total and is_explained(total, observations) else None


def _slice(observations: Sequence[Observation], name: str) -> dict[int, int]:
    """Return size -> value for one axis, with the others at base."""
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
    """Return candidates for one axis: `c * x + d`, then `(x + b) // c + d`."""
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
    if run % rise == 0:  # all sizes are multiples of the divisor: no probes are needed to find it
        divisor = run // rise
        shift = points[low] - low // divisor
        if all(value == size // divisor + shift for size, value in points.items()) and (
            probe is None
            or (
                all(size % divisor == 0 for size in points)
                and _increases_at_multiples(low, points[low], divisor, probe)
            )
        ):
            return [plus(f"{name} // {divisor}", shift)]
    return _floor(name, points, probe) or _scaled_floor(name, points, probe)


def _increases_at_multiples(multiple: int, value: int, divisor: int, probe: Probe) -> bool:
    """Return whether values increase at multiples of the divisor.

    A kernel shifts that: `(x + 1) // 2` increases before a multiple. If the model fails at the probed size, it accepts
    only multiples, and the difference does not matter.
    """
    return probe(multiple + divisor - 1) in (value, None)


def _scaled_floor(name: str, points: dict[int, int], probe: Probe | None) -> list[str]:
    """Return candidates `k * (floor form) + r`: an image that is cut to whole patches and scaled up again."""
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
    """Return the largest step that probes of intermediate sizes allow: observed sizes may all be multiples of more."""
    tried = 0
    while probe is not None and step > 1 and tried != step:
        tried = step
        for between in (1, 2, step // 2):
            seen = probe(size + between)
            step = math.gcd(step, seen - value) if seen is not None else step
    return step


def _floor(name: str, points: dict[int, int], probe: Probe | None) -> list[str]:
    """Return `(x + b) // c + d`; the sizes at which two of its steps occur are found by bisection."""
    low, high = min(points), max(points)
    if probe is None or points[high] - points[low] < 2:
        return []
    first = _smallest_size_reaching(points[low] + 1, low, high, probe)
    last = _smallest_size_reaching(points[high], low, high, probe)
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
    # Prefer the usual form: a convolution's (x - kernel) // stride + 1.
    if offset and shift == 0 and offset == divisor - 1:
        return [f"({name} + {offset}) // {divisor}"]
    if offset:
        offset, shift = offset - divisor, shift + 1
        return [plus(f"({name} - {-offset}) // {divisor}", shift)]
    return [plus(f"{name} // {divisor}", shift)]


def _smallest_size_reaching(value: int, low: int, high: int, probe: Probe) -> int | None:
    """Return the smallest size in (low, high] whose value reaches `value`; values never decrease."""
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
    varying: list[str],
    slices: Mapping[str, dict[int, int]],
    probes: Mapping[str, Probe],
    observations: Sequence[Observation],
) -> str | None:
    left, right = varying
    base = observations[0].value
    for first in _line(left, slices[left], probes.get(left)):  # a sum: f(x) + g(y)
        for second in _line(right, {k: v - base for k, v in slices[right].items()}, _shifted(probes.get(right), base)):
            expression = f"{first} + {second}"
            if is_explained(expression, observations):
                return _simplified(expression, observations)
    for extra in range(0, 17):  # a product plus class or register tokens: f(x) * g(y) + d
        for expression in _products(varying, slices, probes, base, extra):
            if is_explained(expression, observations):
                return expression
    return None


def _products(
    varying: list[str],
    slices: Mapping[str, dict[int, int]],
    probes: Mapping[str, Probe],
    base: int,
    extra: int,
) -> Iterator[str]:
    """Yield candidates `f(x) * g(y) + extra`. On the slice of x, g is a constant that divides every value."""
    left, right = varying
    common = [math.gcd(*(value - extra for value in slices[name].values())) for name in varying]
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
    """Simplify `a + x - a` to `x`: return a plain sum of the names if it explains all observations."""
    names = sorted(names_in(expression))
    for count in (1, 2):
        for chosen in combinations(names, count):
            text = " + ".join(chosen)
            if is_explained(text, observations):
                return text
    return expression


def plus(text: str, number: int) -> str:
    """Return `text + number` in usual notation.

    Args:
        text: an expression.
        number: an integer of any sign.
    """
    if number == 0:
        return text
    return f"{text} + {number}" if number > 0 else f"{text} - {-number}"


def parenthesized(text: str) -> str:
    """Return an expression in parentheses, or a name unchanged.

    Args:
        text: an expression.
    """
    return text if text.isidentifier() else f"({text})"
