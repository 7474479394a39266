"""How much verification compares: quick, standard or thorough."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from onnxport.errors import UsageError, did_you_mean


class Level(StrEnum):
    """What is compared beside the cases that every verification has.

    - `QUICK`: whether each input, each row and each position changes in the graph what it changes in the source.
    - `STANDARD`: also the ends of the range of each axis, the sizes that the model's config and code name, and inputs
      with unusual content, as far as that costs little.
    - `THOROUGH`: all of them, and the sizes just below and above each, whatever it costs.
    """

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"


@dataclass(frozen=True)
class Budget:
    """How much the further cases may cost together.

    Which cases are run follows from sizes alone, so that one model gives one set of cases on every machine; the time
    only stops what takes far longer than expected.

    Attributes:
        elements: of the inputs, as a multiple of those of the cases that every verification has.
        flops: as many elements are allowed whatever the multiple, if weights times elements stay below it.
        size: largest size of an axis.
        past_bytes: largest cache of a case.
        seconds: further cases are left out once they have taken so long.
    """

    elements: float
    flops: float
    size: int
    past_bytes: int
    seconds: float


_BUDGETS = {
    Level.QUICK: Budget(0, 0, 0, 0, 0),
    Level.STANDARD: Budget(4, 2e9, 2**11, 2**27, 60),
    Level.THOROUGH: Budget(float("inf"), float("inf"), 2**20, 2**32, float("inf")),
}


def budget_of(level: Level) -> Budget:
    """What a level may cost."""
    return _BUDGETS[level]


def find_level(name: str) -> Level:
    """The level of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return Level(name)
    except ValueError:
        raise UsageError(
            f"Unknown verification level {name!r}.",
            hint=did_you_mean(name, tuple(Level)) + " Use quick, standard or thorough.",
        ) from None
