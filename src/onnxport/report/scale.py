"""Logarithmic axes of the charts, in percent of their width, so that a chart fits any screen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LEFT, _RIGHT = 2.0, 98.0  # percent: marks at the ends are not cut


@dataclass(frozen=True)
class LogScale:
    """An axis from 10**low to 10**high.

    Attributes:
        low, high: whole exponents.
    """

    low: int
    high: int

    @classmethod
    def around(cls, values: Iterable[float], *, low: int, high: int, least: int = -9, most: int = 4) -> LogScale:
        """An axis that holds all positive finite `values`, and at least 10**low to 10**high.

        >>> LogScale.around([3e-7, 0.2], low=-3, high=0)
        LogScale(low=-7, high=0)
        """
        known = [math.log10(value) for value in values if value > 0 and math.isfinite(value)]
        first = min([low, *(math.floor(one) for one in known)])
        last = max([high, *(math.ceil(one) for one in known)])
        return cls(max(first, least), min(last, most))

    def place(self, value: float) -> float:
        """Where `value` is, in percent from the left; zero is at the left end, and what is no number at the right.

        >>> LogScale(-2, 0).place(0.1)
        50.0
        """
        if math.isnan(value) or value == math.inf:
            return _RIGHT
        share = (math.log10(value) - self.low) / (self.high - self.low) if value > 0 else 0.0
        return round(_LEFT + (_RIGHT - _LEFT) * min(max(share, 0.0), 1.0), 2)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Places of whole powers of ten and their labels, at most `most` of them."""
        step = max(1, math.ceil((self.high - self.low) / (most - 1)))
        exponents = range(self.high, self.low - 1, -step)
        return [(self.place(10.0**one), power(one)) for one in exponents]


def power(exponent: int) -> str:
    """A power of ten: "0.01", "1", "1e-5"."""
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else f"1e{exponent}"
