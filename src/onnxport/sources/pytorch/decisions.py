"""The discrete decisions of a model's run, recorded in float32 and taken again in another precision.

A model that routes tokens to experts, looks for the largest number or sorts distances into buckets can decide
otherwise in float64 where two numbers are nearly equal, and all that follows is different. That says nothing about
rounding. So the second run takes the decisions of the first: what an operator makes of floats that is no float
(indices, comparisons, integers), floats that are whole by definition (`floor`, `sign`), and random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_aten = torch.ops.aten
_WHOLE = frozenset(
    getattr(_aten, name) for name in ("floor", "ceil", "round", "trunc", "sign", "sgn", "floor_divide", "heaviside")
)
_RANDOM = ("rand", "normal", "uniform", "bernoulli", "exponential", "poisson", "cauchy", "geometric", "log_normal")


class DecisionsDiffer(Exception):
    """The second run has other operators than the first."""


class Decisions:
    """What a run decided, in order: operator and result."""

    def __init__(self) -> None:
        self._taken: list[tuple[Any, Any]] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Within it a model runs as it always does, and its decisions are kept."""
        with _Recorder(self):
            yield

    def add(self, func: Any, result: Any) -> None:
        """One more decision."""
        self._taken.append((func, tree_map(_copy, result)))

    def equal(self, other: Decisions) -> bool:
        """Whether another run decided the same; values that are no decision, as those beside `topk`, do not count."""
        mine, others = (
            [
                leaf
                for func, result in run._taken
                for leaf in tree_leaves(result)
                if not _is_float(leaf) or _is_whole_or_random(func)
            ]
            for run in (self, other)
        )
        return len(mine) == len(others) and all(map(_equal, mine, others))

    def replay(self) -> Replay:
        """The same decisions, for one more run."""
        return Replay(self._taken)


class _Recorder(TorchDispatchMode):
    def __init__(self, decisions: Decisions) -> None:
        super().__init__()
        self.decisions = decisions

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_decision(func, args, kwargs, result):
            self.decisions.add(func, result)
        return result


class Replay:
    """Decisions of an earlier run, handed out one after the other."""

    def __init__(self, taken: list[tuple[Any, Any]]) -> None:
        self._left: Iterator[tuple[Any, Any]] = iter(taken)

    def skip(self, func: Any) -> Any:
        """What `func` gave in the first run, which is not taken here.

        Raises:
            DecisionsDiffer: another operator was there.
        """
        before, result = next(self._left, (None, None))
        if before != func:
            raise DecisionsDiffer(f"{func} comes where the first run had {before}")
        return result

    def next(self, func: Any, own: Any) -> Any:
        """What `func` gave in the first run; floats are its own, where they are not whole or random.

        Raises:
            DecisionsDiffer: another operator was there.
        """
        result = self.skip(func)
        if func._schema.is_mutable:
            return own.copy_(result)
        if _is_whole_or_random(func):
            return tree_map(_copy, result)
        if isinstance(result, (tuple, list)):
            return type(own)(mine if _is_float(mine) else _copy(first) for mine, first in zip(own, result, strict=True))
        return _copy(result)


def is_decision(func: Any, args: Any, kwargs: Any, result: Any) -> bool:
    """Whether rounding of `args` can turn `result` into quite another one."""
    if _is_whole_or_random(func):
        return True
    if not any(isinstance(leaf, torch.Tensor) and _is_float(leaf) for leaf in tree_leaves((args, kwargs))):
        return False
    results = result if isinstance(result, (tuple, list)) else (result,)
    return any(isinstance(one, (torch.Tensor, bool, int)) and not _is_float(one) for one in results)


def _is_whole_or_random(func: Any) -> bool:
    return func.overloadpacket in _WHOLE or func._overloadname.endswith("_mode") or is_random(func)


def is_random(func: Any) -> bool:
    """Whether an operator draws random numbers."""
    packet = func.overloadpacket
    return torch.Tag.nondeterministic_seeded in func.tags and packet.__name__.startswith(_RANDOM)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and bool((one == other).all())
    return bool(one == other)


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _copy(value: Any) -> Any:
    """A model may write into a result."""
    return value.clone() if isinstance(value, torch.Tensor) else value
