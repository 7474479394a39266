"""Converted folders as other run times want them, checked in these run times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnxport.errors import UsageError, did_you_mean

# Names of run times.
TARGETS = ("genai", "transformers.js", "triton")
# Those that write another folder, and do not change the one that they are given.
APART = ("transformers.js", "triton")


def find_target(name: str) -> Callable[..., Path]:
    """The function that writes the files of the run time `name`.

    It is called with the folder, `component` for one of its graphs, and `output` for the new folder if the target is in
    `APART`.

    Raises:
        UsageError: there is no such target.
        MissingDependencyError: the run time is not installed, so nothing could be checked.
    """
    if name not in TARGETS:
        raise UsageError(
            f"There is no target {name!r}.",
            hint=did_you_mean(name, TARGETS) or f"There are {', '.join(TARGETS)}.",
        )
    if name == "transformers.js":
        from onnxport.targets.transformers_js import require_onnx, write_transformers_js

        require_onnx()
        return write_transformers_js
    if name == "triton":
        from onnxport.targets.triton import write_triton

        return write_triton
    from onnxport.targets.genai import require_genai, write_genai

    require_genai()
    return write_genai


def checked_by(name: str, written: Path) -> str:
    """What was checked of what the target `name` wrote, in a few words."""
    if name != "triton":
        return "the same tokens"
    from onnxport.targets.triton import summary

    return summary(written)
