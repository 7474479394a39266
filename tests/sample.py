"""Parameters of which `make test` runs a sample; the others carry the marker `sweep`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Every value as a parameter of a test or a fixture; those that are not in `kept` are for the sweep.

    Raises:
        ValueError: a value that is to be kept is not there.
    """
    values = list(values)
    if unknown := [value for value in kept if value not in values]:
        raise ValueError(f"not among the parameters: {unknown}")
    return [value if value in kept else pytest.param(value, marks=pytest.mark.sweep) for value in values]
