"""Which planted faults does verification find? One real conversion for each fault, which must not be published.

    python benchmarks/faults.py                              # all faults, and a table
    python benchmarks/faults.py --only "llama|bert-fill" --jobs 2 --json faults.json
    python benchmarks/faults.py --resume                     # go on where it was stopped
    python benchmarks/faults.py --sound 1,4,16               # false alarms: sound models at three weight scales

Exit code 1 if a fault was published or a sound model refused. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.planted.fault import Fault, Result

RESULTS = Path(__file__).parent / "results"
STAGED_OUTCOMES = ("MISSED", "FALSE ALARM", "broken", "timeout")


def main() -> int:
    given = _arguments()
    lines = Path(given.work or RESULTS) / ("sound.jsonl" if given.sound else "faults.jsonl")
    lines.parent.mkdir(parents=True, exist_ok=True)
    if not given.resume:
        lines.unlink(missing_ok=True)
    known = _read(lines)
    jobs = _sound_jobs(given, known, lines) if given.sound else _fault_jobs(given, known, lines)
    if jobs:
        _preload()
        _run_all(jobs, given.jobs)
    if not given.sound:
        _tell_missing(given, lines)
    from benchmarks.planted.report import print_report

    found = [result for result in _read(lines).values() if re.search(given.only, result.fault)]
    print_report(found)
    if given.json:
        Path(given.json).write_text(json.dumps([asdict(result) for result in found], indent=2) + "\n")
    return int(any(result.outcome in STAGED_OUTCOMES for result in found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a pattern; faults whose name has it, 'MODEL: FAULT'")
    parser.add_argument("--stage", default="", help="a pattern; faults of these stages")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--json", help="also write all results to this file")
    parser.add_argument("--resume", action="store_true", help="keep results of the last run, and do what is missing")
    parser.add_argument("--sound", help="no faults: convert sound models with matrices x these factors (1,4,16)")
    parser.add_argument("--work", help="folder of the results while they are made")
    parser.add_argument("--list", action="store_true", help="only print the names")
    return parser.parse_args()


def _read(lines: Path) -> dict[str, Result]:
    """The result of each fault; what is found out later is a line of its own."""
    content = lines.read_text().splitlines() if lines.is_file() else []
    found: dict[str, dict[str, Any]] = {}
    for line in map(json.loads, content):
        found.setdefault(line["fault"], {}).update(line)
    return {name: Result(**fields) for name, fields in found.items()}


def _fault_jobs(given: argparse.Namespace, known: dict[str, Result], lines: Path) -> list[Callable[[Path], None]]:
    from benchmarks.planted.models import MODELS
    from benchmarks.planted.table import FAULTS

    chosen = [
        fault for fault in FAULTS
        if re.search(given.only, fault.name) and re.search(given.stage, fault.stage) and not _is_done(known, fault)
    ]  # fmt: skip
    if given.list:
        print("\n".join(f"{fault.name}  [{fault.stage}]" for fault in chosen))
        sys.exit(0)
    of_model = {name: [fault for fault in chosen if fault.model == name] for name in MODELS}
    return [lambda root, n=name, f=faults: _convert(n, f, root, lines) for name, faults in of_model.items() if faults]  # type: ignore[misc]


def _is_done(known: dict[str, Result], fault: Fault) -> bool:
    """Whether there is a result, and of a published fault also what it changed."""
    result = known.get(fault.name)
    if result is None or result.outcome in ("broken", "timeout"):
        return False
    return result.outcome != "MISSED" or bool(result.effect)


def _sound_jobs(
    given: argparse.Namespace, known: dict[str, Result], lines: Path
) -> list[Callable[[Path], None]]:  # fmt: skip
    from benchmarks.planted.sound import sound_jobs

    factors = [float(factor) for factor in given.sound.split(",")]
    return sound_jobs(factors, re.compile(given.only), known, lambda result: _report(lines, result))


def _tell_missing(given: argparse.Namespace, lines: Path) -> None:
    """Faults whose stage no conversion came to."""
    from benchmarks.planted.table import FAULTS

    known = _read(lines)
    for fault in FAULTS:
        if fault.name not in known and re.search(given.only, fault.name) and re.search(given.stage, fault.stage):
            said = "the conversion did not come to its stage"
            _report(lines, asdict(Result(fault.name, fault.model, fault.stage, "broken", message=said)))


def _report(lines: Path, result: dict[str, Any]) -> None:
    with lines.open("a") as file:
        file.write(json.dumps(result) + "\n")


def _convert(name: str, faults: Sequence[Fault], root: Path, lines: Path) -> None:
    """All faults of a model."""
    from benchmarks.planted.run import convert_with_faults

    convert_with_faults(name, faults, root, lambda result: _report(lines, result))


def _preload() -> None:
    """Once for all forks: libraries, and what they import for a first export. Not TensorFlow: see `planted.run`."""
    import onnxruntime  # noqa: F401
    import torch
    from torch import nn

    import onnxport.api.capture
    import onnxport.api.publish
    from benchmarks.planted import stages, table  # noqa: F401
    from onnxport.loading import load  # noqa: F401

    class Stop(Exception):
        """A session of ONNX Runtime would have threads, which do not survive a fork."""

    def build(*arguments: Any, **named: Any) -> Any:
        original(*arguments, **named)
        raise Stop

    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.GELU())
    original, onnxport.api.capture.build_graph = onnxport.api.capture.build_graph, build  # type: ignore[assignment]
    try:
        with stages.silence(), tempfile.TemporaryDirectory() as folder, contextlib.suppress(Stop):
            onnxport.convert("pt", model, Path(folder) / "out", sample_inputs=torch.ones(2, 3, 8))
    finally:
        onnxport.api.capture.build_graph = original


def _run_all(jobs: Sequence[Callable[[Path], None]], most: int) -> None:
    """Each job in a process of its own, `most` at a time."""
    waiting, running = list(jobs), {}
    while waiting or running:
        while waiting and len(running) < most:
            root = Path(tempfile.mkdtemp(prefix="faults-"))
            running[_start(waiting.pop(0), root)] = root
        ended, _ = os.wait()
        shutil.rmtree(running.pop(ended), ignore_errors=True)


def _start(job: Callable[[Path], None], root: Path) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        from benchmarks.planted.stages import silence

        with silence():
            job(root)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    started = time.monotonic()
    code = main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(code)
