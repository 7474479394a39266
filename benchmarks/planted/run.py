"""All faults of one model, and what those changed that were published."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.planted.conversion import EARLY, Conversion, file_name
from benchmarks.planted.fault import Fault, Result
from benchmarks.planted.models import MODELS

Report = Callable[[dict[str, Any]], None]


def convert_with_faults(
    name: str, faults: Sequence[Fault], root: Path, report: Report
) -> None:  # fmt: skip
    """Convert a model with each of the faults, and without any.

    Args:
        name: of the model.
        root: an empty folder.
        report: called with each result, in different processes.
    """
    model = MODELS[name]
    (root / "kept").mkdir()
    if not model.forks:
        import tests.tiny_keras  # noqa: F401 - imports TensorFlow once, and runs nothing

        for fault in (fault for fault in faults if fault.stage in EARLY):
            folder = root / file_name(fault.name)
            (folder / "kept").mkdir(parents=True)
            _in_fork(lambda f=fault, d=folder: Conversion(name, model, d, report).alone(f), name, report, fault)  # type: ignore[misc]
            for kept in (folder / "kept").iterdir():
                kept.rename(root / "kept" / kept.name)
    _in_fork(lambda: Conversion(name, model, root, report).run(faults), name, report)
    from benchmarks.planted.effects import effect

    for fault in faults:
        variant = root / "kept" / file_name(f"{name}: sound, {fault.precision}")
        sound = (variant if fault.precision else root / "place") / model.output
        published = root / "kept" / file_name(fault.name) / model.output
        if published.exists() and sound.exists():
            _in_fork(lambda f=fault, s=sound, p=published: report(effect(f, s, p)), name, report, fault)  # type: ignore[misc]


def _in_fork(
    work: Callable[[], None], name: str, report: Report, fault: Fault | None = None
) -> None:  # fmt: skip
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    code = 0
    try:
        work()
    except BaseException:
        stage, title = (fault.stage, fault.name) if fault else ("none", f"{name}: sound")
        report(asdict(Result(title, name, stage, "broken", message=traceback.format_exc()[-1500:])))
        code = 1
    finally:
        os._exit(code)
