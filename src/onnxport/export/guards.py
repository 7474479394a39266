"""Guards that torch.export cannot prove of an axis, although every size from some size on obeys them.

Upstream: torch (2.13) bounds each part of an expression on its own. The length after three convolutions of
moonshine (transformers 5.23) stands in a guard in two forms of one value, `(n - 127) // 384 - 1` and
`((n - 63) // 64 - 4) // 3 - 1) // 2`, and is refused at all sizes. Such guards are evaluated here instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

_GUARD = re.compile(r"Not all values of (\w+) = (L\['\w+'\]\.size\(\)\[\d+\]) in .*? generated guard (.*?)\.?$", re.M)
_EVERY = 16384  # sizes that are all tried, from the smallest on
_FAR = tuple(2**power + odd for power in range(14, 31) for odd in (-1, 0, 1))
_COMPARED: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Lt: lambda x, y: x < y,
    ast.LtE: lambda x, y: x <= y,
    ast.Gt: lambda x, y: x > y,
    ast.GtE: lambda x, y: x >= y,
    ast.Eq: lambda x, y: x == y,
    ast.NotEq: lambda x, y: x != y,
}
_COMPUTED: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda x, y: x + y,
    ast.Sub: lambda x, y: x - y,
    ast.Mult: lambda x, y: x * y,
    ast.FloorDiv: lambda x, y: x // y,
    ast.Mod: lambda x, y: x % y,
}


def smallest_size(message: str, axis: str, known: int) -> int | None:
    """The size from which on all guards of a refusal hold.

    Args:
        message: torch.export's.
        axis: name of the axis.
        known: a size that the model takes.

    Returns:
        None where the message says anything else of the axis, a guard is no expression of this one size, or
        a size above `known` breaks one: the first 16384 from the smallest on are all tried, and some up to 2**30.
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
        sizes = (*range(smallest, smallest + _EVERY), *(size for size in _FAR if size > smallest))
        return smallest if all(_all_hold(trees, size) for size in sizes) else None
    except (SyntaxError, ValueError):
        return None


def _all_hold(trees: list[ast.expr], size: int) -> bool:
    try:
        return all(_value(tree, size) for tree in trees)
    except ZeroDivisionError:  # no such length
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
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _COMPUTED:
            return _COMPUTED[type(operator)](_value(left, size), _value(right, size))
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_value(value, size) for value in values)
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(_value(value, size) for value in values)
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARED:
            return _COMPARED[type(operator)](_value(left, size), _value(right, size))
    raise ValueError(ast.dump(node))
