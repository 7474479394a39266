"""Which of a tokenizer's outputs a model takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any


def accepted_inputs(model: Any, names: Iterable[str]) -> list[str]:
    """Those of `names` that are named parameters of the model's forward, in the order given."""
    accepted = inspect.signature(model.forward).parameters
    return [name for name in names if name in accepted]
