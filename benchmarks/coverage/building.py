"""Build many checkpoints in forked processes that have imported transformers once."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from benchmarks.coverage.checkpoints import Built, build
from benchmarks.coverage.configs import Cut
from benchmarks.coverage.pairs import Pair

_SECONDS = 120


def build_all(pairs: Iterable[Pair], root: Path, workers: int = 1, *, again: bool = False) -> Iterator[Built]:
    """Build every pair below `root/checkpoints`, one process for each model type.

    Args:
        pairs: what to build.
        root: holds checkpoints and records of what became of them.
        workers: processes at once.
        again: also build those that were built before; else only the others.
    """
    by_type: dict[str, list[Pair]] = {}
    for pair in pairs:
        if again or not (root / "built" / f"{pair.name}.json").is_file():
            by_type.setdefault(pair.model_type, []).append(pair)
    (root / "built").mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    todo = list(by_type.values())
    while todo:
        batch, todo = todo[:workers], todo[workers:]
        running = [(group, context.Process(target=_build_type, args=(group, root))) for group in batch]
        for _, process in running:
            process.start()
        for group, process in running:
            process.join(_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            yield from (_result(pair, root, process.exitcode) for pair in group)


def _result(pair: Pair, root: Path, code: int | None) -> Built:
    path = root / "built" / f"{pair.name}.json"
    if path.is_file():
        return Built(**json.loads(path.read_text()))
    why = f"no result within {_SECONDS} s" if code is not None and code < 0 else f"its process ended with {code}"
    built = Built(pair.name, error=why)
    built.write(path)
    return built


def _build_type(group: list[Pair], root: Path) -> None:
    cut: Cut | None = None
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for pair in group:
            built = build(pair, root / "checkpoints" / pair.name, cut)
            if built.cut and built.torch_runs is not False:
                cut = Cut(**built.cut)
            built.write(root / "built" / f"{pair.name}.json")
