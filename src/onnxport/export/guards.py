"""Evaluate guards that torch.export cannot prove for an axis, although all sizes above a minimum satisfy them.

Upstream (torch 2.13): torch bounds each part of an expression separately. The length after the three convolutions of
moonshine (transformers 5.23) is in a guard in two equivalent forms, `(n - 127) // 384 - 1` and
`((n - 63) // 64 - 4) // 3 - 1) // 2`, and torch refuses all sizes. Such guards are evaluated here instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

_GUARD = re.compile(r"Not all values of (\w+) = (L\['\w+'\]\.size\(\)\[\d+\]) in .*? generated guard (.*?)\.?$", re.M)
_CONSECUTIVE = 16384  # number of consecutive sizes that are tried, from the smallest on
_LARGE_SIZES = tuple(2**power + odd for power in range(14, 31) for odd in (-1, 0, 1))
_COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Lt: lambda x, y: x < y,
    ast.LtE: lambda x, y: x <= y,
    ast.Gt: lambda x, y: x > y,
    ast.GtE: lambda x, y: x >= y,
    ast.Eq: lambda x, y: x == y,
    ast.NotEq: lambda x, y: x != y,
}
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda x, y: x + y,
    ast.Sub: lambda x, y: x - y,
    ast.Mult: lambda x, y: x * y,
    ast.FloorDiv: lambda x, y: x // y,
    ast.Mod: lambda x, y: x % y,
}


def smallest_valid_size(message: str, axis: str, known: int) -> int | None:
    """Return the smallest size from which on all guards of an error message hold.

    Args:
        message: the message of torch.export.
        axis: name of the axis.
        known: a size that the model accepts.

    Returns:
        None if the message has another complaint about the axis, a guard is not an expression of this size alone, or a
        larger size breaks a guard. All of the first 16384 sizes are tried, and some up to 2^30.
    """
    lines = [line for line in message.partition("Suggested fixes:")[0].splitlines() if f" {axis} = " in line]
    guards = [(match[2], match[3]) for line in lines if (match := _GUARD.search(line)) and match[1] == axis]
    if not guards or len(guards) != len(lines):
        return None
    try:
        trees = [ast.parse(guard.replace(size, "size"), mode="eval").body for size, guard in guards]
        smallest = known
        while smallest > 1 and _all_hold(trees, smallest - 1):
            smallest -= 1
        sizes = (*range(smallest, smallest + _CONSECUTIVE), *(size for size in _LARGE_SIZES if size > smallest))
        return smallest if all(_all_hold(trees, size) for size in sizes) else None
    except (SyntaxError, ValueError):
        return None


def _all_hold(trees: list[ast.expr], size: int) -> bool:
    try:
        return all(_value(tree, size) for tree in trees)
    except ZeroDivisionError:  # the expression is undefined at this size
        return False


def _value(node: ast.expr, size: int) -> Any:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id="size"):
            return size
        case ast.Call(func=ast.Name(id="IntInfinity")):
            return 2**63
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, size)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            return _OPERATORS[type(operator)](_value(left, size), _value(right, size))
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_value(value, size) for value in values)
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(_value(value, size) for value in values)
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARISONS:
            return _COMPARISONS[type(operator)](_value(left, size), _value(right, size))
    raise ValueError(ast.dump(node))
