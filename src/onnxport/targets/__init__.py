"""Converted folders as other run times want them, checked in these run times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnxport.errors import UsageError, did_you_mean

# Names of run times.
TARGETS = ("genai",)


def find_target(name: str) -> Callable[..., Path]:
    """What writes a folder for the run time `name`: called with the folder, and `component` for one of its graphs.

    Raises:
        UsageError: there is no such target.
        MissingDependencyError: the run time is not installed, so nothing could be checked.
    """
    if name not in TARGETS:
        raise UsageError(
            f"There is no target {name!r}. Nothing was written.",
            hint=did_you_mean(name, TARGETS) or f"There are {', '.join(TARGETS)}.",
        )
    from onnxport.targets.genai import require_genai, write_genai

    require_genai()
    return write_genai
