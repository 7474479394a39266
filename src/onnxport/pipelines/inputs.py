"""Which of a tokenizer's outputs a model takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any


def accepted_inputs(model: Any, names: Iterable[str]) -> list[str]:
    """Those of `names` that the model takes, in the order given: parameters of its forward, or a graph's inputs."""
    session = getattr(model, "session", None)
    if session is not None:
        accepted = {spec.name for spec in session.inputs}
    else:
        accepted = set(inspect.signature(model.forward).parameters)
    return [name for name in names if name in accepted]
