"""Build, convert and check pairs one chunk after the other, with a line of `results.jsonl` for each."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.coverage.building import build_all
from benchmarks.coverage.causes import LIBRARY
from benchmarks.coverage.checkpoints import Built
from benchmarks.coverage.pairs import Pair
from benchmarks.coverage.without_videos import OWN
from onnxport.api.batch import batch
from onnxport.batch.isolated import Limits
from onnxport.batch.jobs import Job
from onnxport.batch.records import Record

RESULTS = "results.jsonl"
_CHUNK = 2
_CHECK_SECONDS = 120


def in_order(pairs: Iterable[Pair], seed: int = 0) -> list[Pair]:
    """The pairs in an order that is random and always the same, so that the first N are a random sample."""
    return sorted(pairs, key=lambda pair: zlib.crc32(f"{seed} {pair.name}".encode()))


def done(root: Path) -> dict[str, dict[str, Any]]:
    """The last line of every pair."""
    file = root / RESULTS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {line["name"]: line for line in map(json.loads, lines)}


def sweep(pairs: Iterable[Pair], root: Path, seconds: float, *, keep: bool = False) -> Iterator[dict[str, Any]]:
    """Results of the pairs that have none yet, in the given order.

    Args:
        pairs: what to convert.
        root: holds checkpoints, converted folders and the results.
        seconds: limit of one conversion.
        keep: leave checkpoints and folders of right results on the disk.
    """
    todo = list(pairs)
    while todo:
        chunk, todo = todo[:_CHUNK], todo[_CHUNK:]
        built = {one.name: one for one in build_all(chunk, root, again=True)}
        made = [pair for pair in chunk if built[pair.name].made]
        jobs = [Job(pair.name, str(root / "checkpoints" / pair.name), _options(pair, root)) for pair in made]
        records: dict[str, Record] = {}
        if jobs:
            limits = Limits(seconds=seconds, attempts=1)
            found = batch(jobs, root / "out", workers=1, limits=limits)
            records = {record.name: record for record in found.records}
        for pair in chunk:
            line = _line(pair, built[pair.name], records.get(pair.name), root)
            with (root / RESULTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if not keep and line["status"] in ("right", "restricted"):
                for part in ("checkpoints", "out"):
                    shutil.rmtree(root / part / pair.name, ignore_errors=True)
            yield line


def _options(pair: Pair, root: Path) -> dict[str, Any]:
    """The options of a conversion."""
    own = root / "checkpoints" / pair.name / OWN
    return {"task": pair.task, **({"processor": str(own), "trust_remote_code": True} if own.is_dir() else {})}


def _line(pair: Pair, built: Built, record: Record | None, root: Path) -> dict[str, Any]:
    line: dict[str, Any] = {
        "name": pair.name, "model_type": pair.model_type, "task": pair.task, "modality": pair.modality,
        "architecture": pair.architecture, "parameters": built.parameters, "missing": built.missing,
        "torch_runs": built.torch_runs,
    }  # fmt: skip
    if record is None:
        return line | {"status": "not built", "message": built.error}
    line |= {"cpu_seconds": round(record.cpu_seconds, 1), "message": record.message, "hint": record.hint,
             "error_share": record.error_share, "cases": record.cases}  # fmt: skip
    if not record.ok:
        status = "refused"  # also where onnxport itself found other numbers: nothing was published
        library = next((one for one in (*built.missing.values(), built.torch_error) if LIBRARY.search(one)), None)
        if library is not None and built.torch_runs is False:
            status, line["message"] = "not built", library
        elif built.torch_runs is False:
            status, line["message"] = "torch fails", built.torch_error
        return line | {"status": status, "ended": record.status.value}
    line |= _axes(root / "out" / pair.name)
    checked = in_a_process(pair, root)
    line["check"] = checked
    if checked["right"]:
        varied = {one.split("=")[0] for one in checked["fixed"]}
        return line | {"status": "restricted" if varied else "right"}
    if checked["error"] is not None and checked["error"] > 1e-3:
        return line | {"status": "wrong", "message": checked["problem"]}
    restricted = "no size of its own" in checked["problem"]
    return line | {"status": "restricted" if restricted else "unchecked", "message": checked["problem"]}


def _axes(folder: Path) -> dict[str, Any]:
    """What the folder's manifest says about axes."""
    manifest = json.loads((folder / "onnxport.json").read_text(encoding="utf-8"))
    parts = manifest["components"]
    return {
        "axes": {part["name"]: {one["name"]: one["axes"] for one in part["inputs"]} for part in parts},
        "restrictions": [
            {"part": part["name"], **rule}
            for part in parts for rule in part.get("restrictions", ())
        ],
        "fixes": sorted({fix for part in parts for fix in part.get("fixes", ())}),
    }  # fmt: skip


def in_a_process(pair: Pair, root: Path) -> dict[str, Any]:
    """`check.check_in_process` in a fork, with a limit of time."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_check, args=(sender, pair, root))
    process.start()
    sender.close()
    try:
        found = receiver.recv() if receiver.poll(_CHECK_SECONDS) else None
    except EOFError:
        found = None
    process.kill()
    process.join()
    return found or {"right": False, "error": None, "cases": 0, "fixed": [], "problem": "the check did not end"}


def _check(sender: Any, pair: Pair, root: Path) -> None:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        from benchmarks.coverage.check import check_in_process

        try:
            sender.send(check_in_process(pair, root))
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            sender.send({"right": False, "error": None, "cases": 0, "fixed": [], "problem": text})
