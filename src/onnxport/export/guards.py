"""Evaluate guards that torch.export cannot prove for an axis, although all sizes above a minimum satisfy them.

Upstream (torch 2.13): torch bounds each part of an expression separately. The length after the three convolutions of
moonshine (transformers 5.23) is in a guard in two equivalent forms, `(n - 127) // 384 - 1` and
`((n - 63) // 64 - 4) // 3 - 1) // 2`, and torch refuses all sizes. Such guards are evaluated here instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

from onnxport.system.replaced import replaced

_GUARD = re.compile(r"Not all values of (\w+) = (L\['\w+'\]\.size\(\)\[\d+\]) in .*? generated guard (.*?)\.?$", re.M)
_LIMIT = re.compile(r"in the specified range (?:\d+ <= )?\w+ <= (\d+) satisfy")
_CONSECUTIVE = 16384  # number of consecutive sizes that are tried, from the smallest on
_LARGE_SIZES = tuple(2**power + odd for power in range(14, 31) for odd in (-1, 0, 1))
# What a guard may be made of; whole numbers and the size are its values.
_NODES = (
    ast.Name, ast.Load, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.BoolOp,
    ast.And, ast.Or, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip


@contextmanager
def accepted_guards(accept: Callable[[str], bool]) -> Iterator[None]:
    """Keep a trace whose guards `accept` takes; torch.export would raise an error, and have to trace the model again.

    Args:
        accept: takes the message of the error, and says whether all guards in it are known to hold.
    """
    try:
        from torch.export import _trace
        from torch.fx.experimental.symbolic_shapes import ConstraintViolationError
    except ImportError:  # another version of torch is only slower
        yield
        return
    original = getattr(_trace, "produce_guards_and_solve_constraints", None)
    if original is None:
        yield
        return

    def solve(fake_mode: Any, *arguments: Any, **named: Any) -> None:
        try:
            original(fake_mode, *arguments, **named)
        except ConstraintViolationError as error:
            # Without constraints, torch stopped before it had seen all guards.
            complete = fake_mode.shape_env.dim_constraints is not None
            if not (complete and _has_only_guards(str(error)) and accept(str(error))):
                raise

    with replaced(_trace, "produce_guards_and_solve_constraints", solve):
        yield


def valid_sizes(message: str, axis: str, known: int) -> tuple[int, int | None] | None:
    """Return the smallest size from which on all guards of an error message hold, and the largest, if there is one.

    Args:
        message: the message of torch.export.
        axis: name of the axis.
        known: a size that the model accepts.

    Returns:
        None if the message has another complaint about the axis, a guard is not an expression of this size alone, or a
        size between others breaks a guard. All of the first 16384 sizes are tried, and some up to 2^30; none beyond the
        largest size that the axis may have.
    """
    lines = [line for line in message.partition("Suggested fixes:")[0].splitlines() if f" {axis} = " in line]
    guards = [(match[2], match[3]) for line in lines if (match := _GUARD.search(line)) and match[1] == axis]
    if not guards or len(guards) != len(lines):
        return None
    try:
        codes = [_compiled(guard.replace(size, "size")) for size, guard in guards]
        smallest = known
        while smallest > 1 and _all_hold(codes, smallest - 1):
            smallest -= 1
        limit = min((int(found[1]) for line in lines if (found := _LIMIT.search(line))), default=None)
        last = smallest + _CONSECUTIVE - 1 if limit is None else min(smallest + _CONSECUTIVE - 1, limit)
        if last <= smallest or not all(_all_hold(codes, size) for size in range(smallest, last + 1)):
            return None
        if last == limit:
            return smallest, limit
        sizes = [last, *(size for size in _LARGE_SIZES if last < size <= (limit or size))]
        held = [_all_hold(codes, size) for size in sizes]
        count = held.index(False) if False in held else len(held)
        if any(held[count:]):
            return None
        return smallest, None if count == len(held) else _last(codes, sizes[count - 1], sizes[count])
    except (SyntaxError, ValueError):
        return None


def _has_only_guards(message: str) -> bool:
    """Whether a message complains of nothing else: a size that became a constant, or two sizes that must be equal."""
    lines = message.partition("Suggested fixes:")[0].splitlines()
    return all(_GUARD.search(line) for line in lines if line.startswith("  - "))


def _last(codes: list[CodeType], low: int, high: int) -> int:
    """The largest size that all guards take, where they take `low` and refuse `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _all_hold(codes, middle) else (low, middle)
    return low


def _all_hold(codes: list[CodeType], size: int) -> bool:
    try:
        return all(eval(code, {"__builtins__": {}}, {"size": size}) for code in codes)
    except ZeroDivisionError:  # the expression is undefined at this size
        return False


def _compiled(guard: str) -> CodeType:
    """A guard as code that computes with whole numbers and does nothing else; ValueError where it has another part."""
    tree = ast.parse(guard.replace("IntInfinity()", str(2**63)), mode="eval")
    for node in ast.walk(tree.body):
        whole = isinstance(node, ast.Constant) and type(node.value) is int
        named = not isinstance(node, ast.Name) or node.id == "size"
        if not whole and not (isinstance(node, _NODES) and named):
            raise ValueError(ast.dump(node))
    return compile(tree, "<guard>", "eval")
