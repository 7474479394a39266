"""One arm in a process of its own: `python -m benchmarks.tasks.arm JOB.json`; used by __main__.py.

The job names the arm, the task, the model, the folder of inputs, the number of further calls, the moment at which the
parent started this process (seconds of the monotonic clock, which all processes share), and the file for the answer.
"""

from __future__ import annotations

import json
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tasks.calls import call_of

# What the interpreter itself imports: hooks of the environment (`_distutils_hack` of setuptools).
_AT_START = frozenset(sys.modules)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    arguments, keywords = call_of(job["task"], Path(job["inputs"]))
    pipeline = _ours(job) if job["arm"] == "onnxport" else _transformers(job)
    answer = pipeline(*_copied(arguments), **_copied(keywords))
    started = time.monotonic() - job["began"]
    steady = [_seconds(pipeline, arguments, keywords) for _ in range(job["calls"])]
    measured = {
        "start_s": started,
        "call_ms": 1000 * statistics.median(steady),
        "resident_mib": _resident_mib(),
        "beyond_base": _beyond_base(),
        "how": "by hand" if getattr(pipeline, "by_hand", False) else "pipeline",
    }
    Path(job["answer"]).write_bytes(pickle.dumps((answer, measured)))


def _ours(job: dict[str, Any]) -> Any:
    from onnxport import pipeline

    return pipeline(job["task"], job["model"])


def _transformers(job: dict[str, Any]) -> Callable[..., Any]:
    import torch
    import transformers

    task, model = job["task"], job["model"]
    torch.set_grad_enabled(False)
    from transformers.pipelines import SUPPORTED_TASKS

    subtask = {"subtask": "semantic"} if task == "semantic-segmentation" else {}
    name = "image-segmentation" if subtask else task
    if name in SUPPORTED_TASKS and task not in _POINTS_AND_CLIPS:
        made = transformers.pipeline(name, model)
        # Its pipeline for texts about images takes settings of `generate` as one argument.
        if task == "image-text-to-text":
            return lambda image, text, return_full_text, **settings: made(
                image, text=text, return_full_text=return_full_text, generate_kwargs=settings
            )
        return lambda *arguments, **keywords: made(*arguments, **keywords, **subtask)
    from benchmarks.tasks.by_hand import BY_HAND

    answer = BY_HAND[task](model)
    answer.by_hand = True  # type: ignore[attr-defined]
    return answer


# transformers' pipelines of these rows take no points, and no frames.
_POINTS_AND_CLIPS = ("mask-generation", "video-classification")


def _seconds(pipeline: Callable[..., Any], arguments: Any, keywords: Any) -> float:
    given, named = _copied(arguments), _copied(keywords)
    start = time.perf_counter()
    pipeline(*given, **named)
    return time.perf_counter() - start


def _copied(value: Any) -> Any:
    """A copy of containers: some pipelines of transformers empty the dicts that they are given."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return type(value)(_copied(one) for one in value) if isinstance(value, (list, tuple)) else value


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _beyond_base() -> list[str]:
    """Packages that are imported and that the base install does not have, nor the extra for images."""
    from importlib.metadata import packages_distributions

    owners = packages_distributions()
    imported = {name.partition(".")[0] for name in set(sys.modules) - _AT_START}
    allowed = _base_install() | {"onnxport", "pillow"}
    found = {_plain(owner) for name in imported for owner in owners.get(name, [])}
    return sorted(found - allowed)


def _base_install() -> set[str]:
    """The distributions that `pip install onnxport` brings, without extras."""
    import re
    from importlib.metadata import PackageNotFoundError, requires

    pending, found = ["onnxport"], set()
    while pending:
        try:
            lines = requires(pending.pop()) or []
        except PackageNotFoundError:
            continue
        names = [_plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines if "extra ==" not in line]
        new = set(names) - found
        found |= new
        pending += new
    return found


def _plain(name: str) -> str:
    """The name of a distribution as package indexes normalize it."""
    return name.lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    main()
