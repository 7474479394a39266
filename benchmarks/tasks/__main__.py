"""Every row of the table of tasks: a converted folder without a framework against transformers on the same input.

    python -m benchmarks.tasks --work build/tasks                     # all rows
    python -m benchmarks.tasks --work build/tasks --only image-classification,fill-mask
    python -m benchmarks.tasks --work build/tasks --json benchmarks/tasks/results.json   # what the documentation shows

For each row a tiny checkpoint is made and converted once; both stay below --work. Then both arms run the same call in
processes of their own, alternating: `onnxport.pipeline(task, FOLDER)`, and transformers' pipeline on the checkpoint, or
its model and processor by hand where transformers 5 has no pipeline. Measured are the answer, the time from the start
of the process to the first result, resident memory, and further calls. A row whose answer differs, or whose folder
imports more than the base install, makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.tasks.calls import write_inputs
from benchmarks.tasks.checkpoints import ROWS
from benchmarks.tasks.compare import compare
from benchmarks.tasks.table import table

_ARMS = ("onnxport", "transformers")
_MEASURES = ("start_s", "call_ms", "resident_mib")


def main() -> int:
    from onnxport.tasks import TASKS

    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, folders and measurements")
    parser.add_argument("--only", default="", help="names of rows, separated by commas")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each arm")
    parser.add_argument("--calls", type=int, default=20, help="calls after the first one")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file of results has")
    parser.add_argument("--json", type=Path, help="file for the results; default: results.json below --work")
    args = parser.parse_args()
    if missing := {task.name for task in TASKS} - set(ROWS):
        parser.error(f"no checkpoint for {', '.join(sorted(missing))}")
    chosen = [task.name for task in TASKS if not args.only or task.name in args.only.split(",")]
    (args.work / "inputs").mkdir(parents=True, exist_ok=True)
    write_inputs(args.work / "inputs")
    for name in chosen:
        _convert(name, args.work)
    target = args.json or args.work / "results.json"
    before = json.loads(target.read_text(encoding="utf-8"))["rows"] if args.resume and target.is_file() else []
    known = {row["task"]: row for row in before}
    for name in chosen:
        if name not in known:
            known[name] = _row(name, args)
            print(f"{name}: {known[name]['problem'] or 'equal'}", file=sys.stderr, flush=True)
        rows = [known[task.name] for task in TASKS if task.name in known]
        results = {"about": _about(args), "rows": rows}
        target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    return int(any(row["problem"] or row["onnxport"]["beyond_base"] for row in rows))


def _convert(name: str, work: Path) -> None:
    """Make the checkpoint and the folder of a row, unless they are there."""
    folder = work / name
    if (folder / "out" / "onnxport.json").is_file():
        return
    code = (
        "import sys; from pathlib import Path; from benchmarks.tasks.checkpoints import save; import onnxport;"
        "task, root = sys.argv[1], Path(sys.argv[2]); save(task, root / 'm');"
        "onnxport.convert(None, root / 'm', root / 'out', pipeline_name=task, verify_level='quick', overwrite=True)"
    )
    done = subprocess.run([sys.executable, "-c", code, name, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} could not be converted:\n{done.stderr[-2000:]}")


def _row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    measured: dict[str, list[dict[str, Any]]] = {arm: [] for arm in _ARMS}
    answers: dict[str, Any] = {}
    for number in range(args.rounds):
        for arm in _ARMS if number % 2 == 0 else _ARMS[::-1]:
            answers[arm], one = _run(name, arm, args)
            measured[arm].append(one)
    config = json.loads((args.work / name / "m" / "config.json").read_text(encoding="utf-8"))
    arms = {
        arm: {**ones[0], **{key: round(statistics.median(one[key] for one in ones), 3) for key in _MEASURES}}
        for arm, ones in measured.items()
    }
    compared = compare(answers["transformers"], answers["onnxport"])
    return {"task": name, "model": config["model_type"], **asdict(compared), **arms}


def _run(name: str, arm: str, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """One process of an arm: its answer, and what was measured."""
    folder = args.work / name
    job = {
        "task": name, "arm": arm, "model": str(folder / ("out" if arm == "onnxport" else "m")), "calls": args.calls,
        "inputs": str(args.work / "inputs"), "answer": str(folder / f"{arm}.pickle"), "began": time.monotonic(),
    }  # fmt: skip
    file = folder / f"{arm}.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.tasks.arm", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{name}, {arm}:\n{done.stderr[-2000:]}")
    found: tuple[Any, dict[str, Any]] = pickle.loads(Path(job["answer"]).read_bytes())
    return found


def _about(args: argparse.Namespace) -> dict[str, Any]:
    found = {name: version(name) for name in ("onnxruntime", "torch", "transformers")}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    return {**found, "processor": processor, "threads": threads, "rounds": args.rounds, "calls": args.calls}


if __name__ == "__main__":
    sys.exit(main())
